#!/bin/bash
# Make the disk image and the kernel of the tests' virtual machine, once; quick when they are there.
# Prints the folder they are in: image (ext4, no partitions), vmlinuz, initrd; and tree.tar, a plain
# Debian with Python, for tests that need a container image's base where there is no registry.
#   CACHE        where they are kept        (default: .cache/vm of this checkout)
#   VM_PACKAGES  Debian packages to add; every choice has a folder of its own
#   MIRROR       a Debian mirror            (default: debootstrap's)
# Needs root, debootstrap and mkfs.ext4, and 3 GB of disk. About two minutes.
set -euo pipefail
cd "$(dirname "$0")/../../.."

packages=(
  # a machine that boots
  systemd systemd-sysv udev dbus kmod linux-image-cloud-amd64 initramfs-tools zstd
  # what runs on it
  docker.io iptables busybox-static python3 python3-venv
  # what looks into it
  ca-certificates curl iproute2 procps strace
)
read -ra more <<<"${VM_PACKAGES:-}"
packages+=("${more[@]}")
cache=$(realpath -m "${CACHE:-.cache/vm}")
key=$(cat "$0" tests/deploy/vm/guest/* <(echo "${packages[*]}") | sha256sum | cut -c1-12)
made=$cache/$key
if [ -e "$made/image" ]; then
  echo "$made"
  exit 0
fi
for needed in debootstrap mkfs.ext4; do
  command -v "$needed" >/dev/null || { echo "tests/deploy/vm/build.sh: no $needed" >&2; exit 1; }
done

work=$made.part
rm -rf "$work"
mkdir -p "$work" "$cache/packages"
tree=$work/tree
echo "tests/deploy/vm/build.sh: debootstrap, about two minutes" >&2
debootstrap --variant=minbase --cache-dir="$cache/packages" \
  --include="$(IFS=,; echo "${packages[*]}")" bookworm "$tree" ${MIRROR:-} >"$work/log" 2>&1 ||
  { tail -5 "$work/log" >&2; exit 1; }

tar -C "$tree" -cf "$work/tree.tar" --exclude='./dev/*' --exclude=./boot --exclude=./var/cache \
  --exclude=./var/lib/apt --exclude=./usr/lib/modules \
  --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale \
  --exclude='./usr/*bin/*docker*' --exclude='./usr/bin/containerd*' --exclude=./usr/sbin/runc \
  --exclude=./usr/bin/ctr . 2>>"$work/log"

# The initial RAM disk holds only what finds the root disk: emulation unpacks it slowly.
printf 'MODULES=list\nCOMPRESS=gzip\n' >"$tree/etc/initramfs-tools/conf.d/small"
printf '%s\n' virtio_pci virtio_blk ext4 >"$tree/etc/initramfs-tools/modules"
chroot "$tree" update-initramfs -u >>"$work/log" 2>&1

echo vm >"$tree/etc/hostname"
echo '127.0.0.1 localhost vm' >"$tree/etc/hosts"
echo '/dev/vda / ext4 defaults,noatime 0 0' >"$tree/etc/fstab"
install -m 755 tests/deploy/vm/guest/run-job "$tree/usr/local/sbin/run-job"
install -m 644 tests/deploy/vm/guest/job.service "$tree/etc/systemd/system/job.service"
ln -s ../job.service "$tree/etc/systemd/system/multi-user.target.wants/job.service"
# Nothing that only costs time at a boot of a minute's life.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer systemd-timesyncd.service getty@tty1.service; do
  ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* \
  "$tree"/usr/share/{doc,man,locale}

cp "$tree"/boot/vmlinuz-* "$work/vmlinuz"
cp "$tree"/boot/initrd.img-* "$work/initrd"
rm -rf "$tree"/boot/*
truncate -s 3G "$work/image"
mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 -d "$tree" "$work/image"
rm -rf "$tree"
mv "$work" "$made"
echo "$made"
