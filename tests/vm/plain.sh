# The init of the plain mode: what systemd would have mounted, and the job. Applets of busybox read the least over 9p.
b=/usr/bin/busybox
$b mkdir -p /dev/pts /dev/shm /dev/mqueue
$b mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs tmpfs /dev/shm
$b mount -t mqueue mqueue /dev/mqueue
$b mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 /sys/fs/cgroup
$b mount -t securityfs securityfs /sys/kernel/security
$b mount -t bpf bpf /sys/fs/bpf
for controller in $($b cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done
$b ip link set lo up
$b sh /run/job/job.sh
