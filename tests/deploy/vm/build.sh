#!/bin/bash
# Builds the disk image and kernel of the tests' virtual machine, unless cached. Prints their folder:
# image (ext4, no partitions), linux.uml or vmlinuz and initrd; and tree.tar, a plain Debian with
# Python, the container base image of tests without a registry.
#   CACHE        cache folder               (default: .cache/vm of this checkout)
#   VM_MACHINE   uml or qemu                (default: uml)
#   VM_PACKAGES  additional Debian packages; each selection is cached separately
#   MIRROR       Debian mirror              (default: mmdebstrap's)
# Needs root, mmdebstrap and mkfs.ext4, and 3 GB of disk. About a minute.
set -euo pipefail
cd "$(dirname "$0")/../../.."

packages=(
  # boot
  systemd systemd-sysv udev dbus kmod
  # workload; procps: /bin/kill, for the service's reload
  docker.io iptables busybox-static python3 python3-venv procps ca-certificates
)
machine=${VM_MACHINE:-uml}
case $machine in
  uml) packages+=(user-mode-linux) ;;
  qemu) packages+=(linux-image-cloud-amd64 initramfs-tools zstd) ;;
  *) echo "tests/deploy/vm/build.sh: VM_MACHINE=$machine: neither uml nor qemu" >&2; exit 1 ;;
esac
read -ra more <<<"${VM_PACKAGES:-}"
packages+=("${more[@]}")
cache=$(realpath -m "${CACHE:-.cache/vm}")
key=$(cat "$0" tests/deploy/vm/rootfs/* <(echo "${packages[*]}") | sha256sum | cut -c1-12)
made=$cache/$key
if [ -e "$made/image" ]; then
  echo "$made"
  exit 0
fi
for needed in mmdebstrap mkfs.ext4; do
  command -v "$needed" >/dev/null || { echo "tests/deploy/vm/build.sh: no $needed" >&2; exit 1; }
done

work=$made.part
rm -rf "$work"
mkdir -p "$work"
tree=$work/tree
echo "tests/deploy/vm/build.sh: mmdebstrap, about a minute" >&2
# INITRD=No: the kernel's package builds no initrd. unsafe-io: no fsync of each file.
excluded=(/usr/share/{doc,man,locale}/'*')
INITRD=No mmdebstrap --mode=root --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
  --dpkgopt=force-unsafe-io "${excluded[@]/#/--dpkgopt=path-exclude=}" \
  bookworm "$tree" ${MIRROR:-} >"$work/log" 2>&1 ||
  { tail -5 "$work/log" >&2; exit 1; }

tar -C "$tree" -cf "$work/tree.tar" --exclude='./dev/*' --exclude=./boot --exclude=./var/cache \
  --exclude=./var/lib/apt --exclude=./usr/lib/modules --exclude=./usr/lib/uml \
  --exclude=./usr/bin/linux.uml \
  --exclude=./usr/share/doc --exclude=./usr/share/man --exclude=./usr/share/locale \
  --exclude='./usr/*bin/*docker*' --exclude='./usr/bin/containerd*' --exclude=./usr/sbin/runc \
  --exclude=./usr/bin/ctr . 2>>"$work/log"

# User-mode Linux: the kernel is a program of the host.
take_uml() {
  mv "$tree/usr/bin/linux.uml" "$work/linux.uml"
  mkdir -p "$tree/usr/lib/modules"
  mv "$tree"/usr/lib/uml/modules/* "$tree/usr/lib/modules"
  chroot "$tree" depmod "$(ls "$tree/usr/lib/modules")"
  # This kernel has no NAT of nftables.
  for program in iptables ip6tables; do
    chroot "$tree" update-alternatives --quiet --set $program /usr/sbin/$program-legacy
  done
}

# QEMU. The initrd only loads the drivers of the root disk: under emulation, Debian's takes seconds.
take_qemu() {
  version=$(ls "$tree/lib/modules")
  initrd=$tree/tmp/initrd
  mkdir -p "$initrd"/{bin,dev,modules,root}
  cp "$tree/bin/busybox" "$initrd/bin"
  {
    echo '#!/bin/busybox sh'
    echo '/bin/busybox mount -t devtmpfs dev /dev'
    for module in virtio_pci virtio_blk; do
      chroot "$tree" modprobe --set-version "$version" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r file; do
      cp "$tree/$file" "$initrd/modules"
      echo "/bin/busybox insmod /modules/$(basename "$file")"
    done
    echo '/bin/busybox mount -t ext4 /dev/vda /root'
    echo '/bin/busybox umount /dev'
    echo 'exec /bin/busybox switch_root /root /sbin/init'
  } >"$initrd/init"
  chmod 755 "$initrd/init"
  chroot "$tree" sh -c 'cd /tmp/initrd && find . | cpio --quiet -o -H newc' >"$work/initrd"
  rm -rf "$initrd"
  cp "$tree"/boot/vmlinuz-* "$work/vmlinuz"
}
"take_$machine"

echo vm >"$tree/etc/hostname"
echo '127.0.0.1 localhost vm' >"$tree/etc/hosts"
install -m 755 tests/deploy/vm/rootfs/run-job "$tree/usr/local/sbin/run-job"
install -m 644 tests/deploy/vm/rootfs/job.service "$tree/etc/systemd/system/job.service"
ln -s ../job.service "$tree/etc/systemd/system/multi-user.target.wants/job.service"
# Masks units and generators that a short-lived machine does not need: it starts a process
# slowly, and generators run at each daemon-reload.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer getty.target getty@tty1.service kmod-static-nodes.service \
  proc-sys-fs-binfmt_misc.automount sys-fs-fuse-connections.mount sys-kernel-config.mount \
  sys-kernel-debug.mount sys-kernel-tracing.mount systemd-ask-password-console.path \
  systemd-ask-password-wall.path systemd-binfmt.service systemd-logind.service \
  systemd-modules-load.service systemd-pstore.service systemd-random-seed.service \
  systemd-remount-fs.service systemd-sysusers.service systemd-timesyncd.service \
  systemd-tmpfiles-clean.timer systemd-udev-trigger.service systemd-update-utmp.service \
  systemd-update-utmp-runlevel.service systemd-user-sessions.service \
  modprobe@{configfs,dm_mod,drm,efi_pstore,fuse,loop}.service; do
  ln -sf /dev/null "$tree/etc/systemd/system/$unit"
done
mkdir -p "$tree/etc/systemd/system-generators"
for generator in "$tree"/lib/systemd/system-generators/*; do
  ln -sf /dev/null "$tree/etc/systemd/system-generators/$(basename "$generator")"
done
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* \
  "$tree"/usr/share/{doc,man,locale}

rm -rf "$tree"/boot/*
truncate -s 3G "$work/image"
mkfs.ext4 -q -E lazy_itable_init=1,lazy_journal_init=1 -d "$tree" "$work/image"
rm -rf "$tree"
mv "$work" "$made"
echo "$made"
