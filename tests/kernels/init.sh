#!/bin/busybox sh
# The first process of the machine.  Its root is the host's, read-only, under a tmpfs that takes what
# is written; $out is a folder of the host's.  Ends the machine when the command ends.
out=/kernel-out

begin() {
  /bin/busybox --install -s /bin
  mkdir -p /proc /sys /dev /lower /upper /new
  mount -t proc proc /proc
  mount -t sysfs sysfs /sys
  mount -t devtmpfs devtmpfs /dev
  for _ in 1 2 3; do  # which needs which differs between kernels
    for module in /modules/*.ko; do insmod "$module" 2>/dev/null; done
  done
  mount -t virtiofs -o ro root /lower && mount -t tmpfs upper /upper && mkdir /upper/files /upper/work &&
    mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work overlay /new ||
    { echo "no root file system"; poweroff -f; }
  for folder in proc sys dev; do mount --move /$folder /new/$folder; done
  cp /init /command /new/
  exec switch_root /new /init go-on
}

go_on() {
  export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
  mount --make-rshared /
  mkdir -p /dev/pts /dev/shm "$out"
  mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
  mount -t tmpfs -o mode=1777 shm /dev/shm
  mount -t tmpfs -o mode=0755 run /run
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mount -t fusectl fusectl /sys/fs/fuse/connections
  mount -t virtiofs out "$out"
  ln -sf /proc/self/fd /dev/fd
  ip link set lo up
  stty -F /dev/ttyS1 raw -echo
  setsid bash /command </dev/null >/dev/ttyS1 2>&1
  echo $? >"$out/status"
  umount "$out"
  /bin/busybox poweroff -f
}

case ${1:-} in
  go-on) go_on ;;
  *) begin ;;
esac
