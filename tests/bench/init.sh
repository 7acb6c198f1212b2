# The first process of a box.  $1 is an empty folder, the rest a command to run on the new machine:
# its root is a tmpfs, shared as on a real node, with the machine's own folders bound into it, so
# that MOUNT_ROOT has one component, as Fluid's plugin needs it, and nothing stays behind.
set -e
root=$1
shift
mount -t tmpfs -o mode=0755 machine "$root"
for path in /*; do
  name=${path#/}
  case $name in kubelet | runtime-mnt | room | bench | old) continue ;; esac
  if [ -L "$path" ]; then
    cp -P "$path" "$root/$name"
  elif [ -d "$path" ]; then
    mkdir "$root/$name"
    mount --rbind "$path" "$root/$name"
  fi
done
umount -l "$root$root"
mkdir "$root/kubelet" "$root/runtime-mnt" "$root/room" "$root/bench" "$root/old"
here=$PWD
cd "$root"
pivot_root . old
umount -l /old
mount --make-shared /
cd "$here"
set +e
"$@"
exit $?  # not exec: a shell reaps what its children leave behind
