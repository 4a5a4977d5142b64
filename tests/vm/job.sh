# The job of the guest, in both modes: run the command, leave its exit status in the shared directory, power off.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
export PYTHONDONTWRITEBYTECODE=1 PYRUNTIME_GUEST=1
: >/run/vm/started
busybox hostname guest
modprobe -a tun autofs4 loop fuse br_netfilter 2>/dev/null
busybox mkdir -p /dev/net # no udev makes the nodes, nor opens them to everybody
[ -e /dev/net/tun ] || busybox mknod -m 666 /dev/net/tun c 10 200
[ -e /dev/loop-control ] || busybox mknod -m 660 /dev/loop-control c 10 237
[ -e /dev/fuse ] || busybox mknod -m 666 /dev/fuse c 10 229
busybox chmod 666 /dev/net/tun /dev/fuse
# Where engines keep layers: the guest's root is an overlay, and no other can lie on it.
for place in /var/lib/containers /var/tmp; do
    busybox mkdir -p "/tmp/.disk$place" "$place"
    busybox mount --bind "/tmp/.disk$place" "$place"
done
busybox chmod 1777 /var/tmp

out=/dev/console
for port in /sys/class/virtio-ports/*; do
    [ "$(busybox cat "$port/name")" = out ] && out=/dev/${port##*/}
done
. /run/job/command >"$out" 2>&1 </dev/null
status=$?
busybox sync
echo $status >/run/vm/status
busybox sync
busybox poweroff -f
