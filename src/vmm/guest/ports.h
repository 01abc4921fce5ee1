/* SPDX-License-Identifier: MIT */
/* Where a guest looks for devices that no table describes, as any PC operating system
 * knows them; what ACPI can tell is asked of ACPI. */
#ifndef VMM_GUEST_PORTS_H
#define VMM_GUEST_PORTS_H

#define COM1_PORT         0x3f8
#define PIC_MASTER_PORT   0x20
#define PIC_SLAVE_PORT    0xa0
#define PIT_PORT          0x40
#define PIT_HZ            1193182
#define I8042_DATA_PORT   0x60
#define I8042_STATUS_PORT 0x64
#define RTC_INDEX_PORT    0x70
#define RTC_DATA_PORT     0x71
#define DEBUGCON_PORT     0xe9
#define DEBUG_EXIT_PORT   0xf4
#define PVPANIC_PORT      0x505
#define RESET_PORT        0xcf9
#define PCI_ADDRESS_PORT  0xcf8
#define PCI_DATA_PORT     0xcfc
#define PM_TIMER_HZ       3579545
#define LAPIC_ADDRESS     0xfee00000
#define IOAPIC_ADDRESS    0xfec00000

#endif
