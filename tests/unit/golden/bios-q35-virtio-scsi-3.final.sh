#!/bin/sh -
# The final phase of guest, in QEMU.
set -e
cd "$(dirname "$0")"

exec qemu-system-x86_64 \
    -no-user-config \
    -nodefaults \
    -name guest=guest \
    -uuid 5f2a1f6e-2a51-4f4e-9d5b-0c6f6a0f3b11 \
    -machine q35,vmport=off,hpet=off,smm=off \
    -accel kvm \
    -cpu host,hv-relaxed,hv-vapic,hv-spinlocks=0x1fff,hv-vpindex,hv-runtime,hv-synic,hv-stimer,hv-frequencies,hv-tlbflush,hv-ipi,hv-time \
    -m 4096 \
    -smp cpus=4,sockets=1,cores=4,threads=1 \
    -object iothread,id=iothread1 \
    -rtc base=localtime,driftfix=slew \
    -global ICH9-LPC.disable_s3=1 \
    -global ICH9-LPC.disable_s4=1 \
    -device pcie-root-port,id=pci.1,chassis=1,port=0x10,bus=pcie.0,multifunction=on,addr=0x2.0x0 \
    -device pcie-root-port,id=pci.2,chassis=2,port=0x11,bus=pcie.0,addr=0x2.0x1 \
    -device pcie-root-port,id=pci.3,chassis=3,port=0x12,bus=pcie.0,addr=0x2.0x2 \
    -device pcie-root-port,id=pci.4,chassis=4,port=0x13,bus=pcie.0,addr=0x2.0x3 \
    -device pcie-root-port,id=pci.5,chassis=5,port=0x14,bus=pcie.0,addr=0x2.0x4 \
    -device pcie-root-port,id=pci.6,chassis=6,port=0x15,bus=pcie.0,addr=0x2.0x5 \
    -device pcie-root-port,id=pci.7,chassis=7,port=0x16,bus=pcie.0,addr=0x2.0x6 \
    -device pcie-root-port,id=pci.8,chassis=8,port=0x17,bus=pcie.0,addr=0x2.0x7 \
    -device pcie-root-port,id=pci.9,chassis=9,port=0x18,bus=pcie.0,multifunction=on,addr=0x3.0x0 \
    -device pcie-root-port,id=pci.10,chassis=10,port=0x19,bus=pcie.0,addr=0x3.0x1 \
    -device pcie-root-port,id=pci.11,chassis=11,port=0x1a,bus=pcie.0,addr=0x3.0x2 \
    -device qemu-xhci,id=usb,bus=pcie.0,addr=0x1d.0x0 \
    -device virtio-scsi-pci,id=scsi0,iothread=iothread1,bus=pci.4,addr=0x0.0x0 \
    -device virtio-serial-pci,id=virtio-serial0,bus=pci.5,addr=0x0.0x0 \
    -drive if=none,id=drive0,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sda \
    -device scsi-hd,drive=drive0,bus=scsi0.0,scsi-id=0 \
    -drive if=none,id=drive1,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sdb \
    -device scsi-hd,drive=drive1,bus=scsi0.0,scsi-id=1 \
    -drive if=none,id=drive2,format=qcow2,discard=unmap,file=/var/lib/libvirt/images/guest-sdc \
    -device scsi-hd,drive=drive2,bus=scsi0.0,scsi-id=2,bootindex=1 \
    -device ide-cd,bus=ide.5 \
    -netdev user,id=net0 \
    -device virtio-net-pci,netdev=net0,mac=00:0c:29:00:00:00,bus=pci.1,addr=0x0.0x0 \
    -netdev user,id=net1 \
    -device virtio-net-pci,netdev=net1,mac=00:0c:29:00:00:01,bus=pci.2,addr=0x0.0x0 \
    -netdev user,id=net2 \
    -device virtio-net-pci,netdev=net2,mac=00:0c:29:00:00:02,bus=pci.3,addr=0x0.0x0 \
    -chardev file,id=com1,append=on,path=final-com1.log \
    -device isa-serial,chardev=com1 \
    -chardev socket,id=agent,server=on,wait=off,path=agent.sock \
    -device virtserialport,bus=virtio-serial0.0,nr=1,chardev=agent,name=org.qemu.guest_agent.0 \
    -device usb-tablet,bus=usb.0 \
    -device VGA,vgamem_mb=16,bus=pcie.0,addr=0x1.0x0 \
    -device ich9-intel-hda,id=sound0,bus=pcie.0,addr=0x1b.0x0 \
    -device hda-duplex,bus=sound0.0 \
    -device virtio-balloon-pci,bus=pci.6,addr=0x0.0x0 \
    -object rng-random,id=rng0,filename=/dev/urandom \
    -device virtio-rng-pci,rng=rng0,bus=pci.7,addr=0x0.0x0 \
    -device pvpanic,ioport=0x505 \
    "$@"
