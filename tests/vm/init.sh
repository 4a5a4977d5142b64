#!/bin/busybox sh
# First program of the guest, in the initramfs: puts the root together and hands over to the init of the mode.
#
# The root is the host's own, read-only over 9p, below a tmpfs that takes every write. Checkout and virtual environment
# come as an archive on a disk, because thousands of small files over 9p are slow, and are mounted at the same paths.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
while read -r module; do
    $b insmod "/modules/$module" || echo "cannot load $module"
done </modules/order

$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose root /lower
$b mount -t tmpfs -o size=90% tmpfs /rw
$b mkdir -p /rw/up /rw/work /rw/tree
$b tar -xf /dev/vda -C /rw/tree
$b mount -t overlay -o lowerdir=/lower,upperdir=/rw/up,workdir=/rw/work overlay /newroot

n=/newroot
$b rm -f $n/.dockerenv # or systemd takes the machine for a container
: >$n/etc/fstab
echo 6f1d2c8e5b3a4790a1b2c3d4e5f60718 >$n/etc/machine-id
$b mount -t tmpfs -o mode=755 tmpfs $n/run
# A real file system for what tests make: overlay refuses an overlay as its upper layer, and 9p has no O_TMPFILE.
$b mount -t ext4 /dev/vdb $n/tmp
$b chmod 1777 $n/tmp
$b mkdir -p $n/run/vm
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=mmap share $n/run/vm
$b mkdir $n/run/job
$b cp -a /rw/tree/job/. $n/run/job/
while read -r path; do
    $b mkdir -p "$n$path"
    $b mount --bind "/rw/tree$path" "$n$path"
done </rw/tree/job/binds
read -r modules </rw/tree/job/modules
$b mkdir -p $n/lib/modules
$b mount --bind "/lower$modules" $n/lib/modules

$b mount --move /proc $n/proc
$b mount --move /sys $n/sys
$b mount --move /dev $n/dev
if $b grep -q pyruntime.mode=systemd $n/proc/cmdline; then
    # The units of the host would start its daemons, and reading all of them over 9p takes ten seconds.
    $b mkdir $n/run/none
    export SYSTEMD_UNIT_PATH=/etc/systemd/system.control:/run/systemd/system.control:/run/systemd/transient:/run/systemd/system:/run/job/units
    export SYSTEMD_GENERATOR_PATH=/run/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/run/none
    exec $b switch_root $n /lib/systemd/systemd
fi
exec $b switch_root $n /usr/bin/busybox sh /run/job/plain.sh
