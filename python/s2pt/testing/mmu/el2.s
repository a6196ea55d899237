// The program that QEMU runs at EL2: it makes a guest access memory and writes down what the hardware reports.
//
// It waits for the doorbell to differ from the answer word, takes the registers of the header, runs the probes one after
// another, and copies the doorbell to the answer word. A probe's guest code is in a page of its own (guest.s), whose IPA
// the header gives. Python's side, and the layout of header, probe and result, is in qemu.py.
//
//   header   0x00 doorbell  0x08 answer   0x10 probes  0x18 VTCR_EL2  0x20 VTTBR_EL2  0x28 HCR_EL2
//            0x30 IPA of the guest page   0x38 probes done (progress)        0x40 seconds to wait for the bell
//   probe    0x00 IPA       0x08 what     0x10 value to store         0x18 VTCR_EL2 (0: the header's)
//   what     bits 11:0 offset of the guest code, bit 12 EL0, bit 13 fetch from the IPA itself,
//            bit 14 only AT S12E1R, bit 15 AT S12E1R after an access that completed
//   result   0x00 ESR_EL2   0x08 FAR_EL2  0x10 HPFAR_EL2              0x18 value loaded
//            0x20 PAR_EL1 (1: no AT)      0x28 ESR_EL1                0x30 FAR_EL1    0x38 ELR_EL2
//
// Registers that live through a probe: x19 header, x20 probe, x21 result, x22 probes left, x23 what.

start:
    movz x19, #0x4030, lsl #16
    movz x0, #0x4020, lsl #16
    movk x0, #0x0800
    msr vbar_el2, x0
    msr cptr_el2, xzr
    movz x0, #0x0800
    movk x0, #0x30d0, lsl #16
    msr sctlr_el1, x0
    isb

// Nobody waits for ever: when the bell has not rung for the seconds in the header, the machine is switched off, so that a
// Python that was killed leaves nothing behind.
idle:
    mrs x5, cntvct_el0
    mrs x6, cntfrq_el0
    ldr x7, [x19, #0x40]
    mul x6, x6, x7
    add x5, x5, x6
wait:
    yield
    mrs x6, cntvct_el0
    cmp x6, x5
    b.hs off
    ldr x0, [x19, #0x00]
    ldr x1, [x19, #0x08]
    cmp x0, x1
    b.eq wait
    dmb ish

    ldr x0, [x19, #0x18]
    msr vtcr_el2, x0
    ldr x0, [x19, #0x20]
    msr vttbr_el2, x0
    ldr x0, [x19, #0x28]
    msr hcr_el2, x0
    ldr x0, [x19, #0x30]
    msr vbar_el1, x0
    movz x20, #0x4100, lsl #16
    movz x21, #0x4200, lsl #16
    ldr x22, [x19, #0x10]

next:
    cbz x22, done
    ldr x0, [x20, #0x18]
    cbz x0, same_vtcr
    msr vtcr_el2, x0
same_vtcr:
    tlbi alle1
    dsb ish
    isb
    msr esr_el1, xzr
    msr far_el1, xzr
    ldr x23, [x20, #0x08]
    ldr x0, [x20, #0x00]
    tbnz x23, #14, only_at
    mov x3, x0
    tbnz x23, #13, at_ipa
    ldr x3, [x19, #0x30]
    and x4, x23, #0xfff
    add x3, x3, x4
at_ipa:
    msr elr_el2, x3
    movz x4, #0x3c5
    tbz x23, #12, at_el1
    movz x4, #0x3c0
at_el1:
    msr spsr_el2, x4
    ldr x1, [x20, #0x10]
    eret

only_at:
    at s12e1r, x0
    isb
    mrs x1, par_el1
    str x1, [x21, #0x20]
    str xzr, [x21, #0x00]
    b advance

// The guest came back: by an access that stage 2 refused, or by HVC.
returned:
    mrs x2, esr_el2
    str x2, [x21, #0x00]
    mrs x3, far_el2
    str x3, [x21, #0x08]
    mrs x3, hpfar_el2
    str x3, [x21, #0x10]
    str x1, [x21, #0x18]
    mrs x3, esr_el1
    str x3, [x21, #0x28]
    mrs x3, far_el1
    str x3, [x21, #0x30]
    mrs x3, elr_el2
    str x3, [x21, #0x38]
    movz x3, #1
    str x3, [x21, #0x20]
    tbz x23, #15, advance
    lsr x2, x2, #26
    cmp x2, #0x16
    b.ne advance
    ldr x0, [x20, #0x00]
    at s12e1r, x0
    isb
    mrs x3, par_el1
    str x3, [x21, #0x20]

advance:
    add x20, x20, #32
    add x21, x21, #64
    sub x22, x22, #1
    ldr x0, [x19, #0x38]
    add x0, x0, #1
    str x0, [x19, #0x38]
    b next

done:
    dmb ish
    ldr x0, [x19, #0x00]
    str x0, [x19, #0x08]
    b idle

off:
    movz x0, #0x8400, lsl #16
    movk x0, #0x0008
    smc #0
    b .

// VBAR_EL2 = start + 0x800. Only synchronous exceptions are taken; one that EL2 itself takes is a fault of this program:
// it stops, and Python's time limit tells.
.balign 0x800
vectors:
    b .
.balign 0x200
    b .
.balign 0x400
    b returned
.balign 0x80
    b .
