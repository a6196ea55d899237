// The guest's page, which each table under test maps executable: the accesses, and the EL1 vectors.
//
// x0 is the address, x1 the value. From EL1 the guest returns by HVC #0; from EL0 by SVC, which EL1's vector passes on
// by HVC #1, as it does with every exception that EL1 takes (external aborts, undefined instructions).

vectors:
.rept 512
    hvc #1
.endr
// 0x800: EL1, a slot of 16 bytes each
    ldr x1, [x0]
    hvc #0
    nop
    nop
    ldrb w1, [x0]
    hvc #0
    nop
    nop
    str x1, [x0]
    hvc #0
    nop
    nop
    strb w1, [x0]
    hvc #0
    nop
    nop
// 0x840: EL0, the same
    ldr x1, [x0]
    svc #0
    nop
    nop
    ldrb w1, [x0]
    svc #0
    nop
    nop
    str x1, [x0]
    svc #0
    nop
    nop
    strb w1, [x0]
    svc #0
    nop
    nop
