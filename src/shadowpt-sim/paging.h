/* SPDX-License-Identifier: MIT */
/* x86 paging: entry bits, control bits, the CPU state that steers a walk, permissions.
 * SDM = Intel SDM volume 3A chapter 4 (Paging), APM = AMD APM volume 2 chapter 5. */
#ifndef SHADOWPT_SIM_PAGING_H
#define SHADOWPT_SIM_PAGING_H

#include "base/util.h"

#define MMU_PAGE_SHIFT 12
#define MMU_PAGE_SIZE  ((uint64_t)1 << MMU_PAGE_SHIFT)

/* Entry bits, the same in every format that has them. */
#define PTE_P            ((uint64_t)1 << 0)
#define PTE_W            ((uint64_t)1 << 1)
#define PTE_U            ((uint64_t)1 << 2)
#define PTE_PWT          ((uint64_t)1 << 3)
#define PTE_PCD          ((uint64_t)1 << 4)
#define PTE_A            ((uint64_t)1 << 5)
#define PTE_D            ((uint64_t)1 << 6)
#define PTE_PS           ((uint64_t)1 << 7) /* levels 2 and 3 */
#define PTE_PAT_4K       ((uint64_t)1 << 7) /* level 1 */
#define PTE_G            ((uint64_t)1 << 8)
#define PTE_PAT_LARGE    ((uint64_t)1 << 12)
#define PTE_NX           ((uint64_t)1 << 63)
#define PTE_PKEY_SHIFT   59
#define PTE_ADDRESS_MASK 0x000ffffffffff000ull

#define CR0_PE      ((uint64_t)1 << 0)
#define CR0_WP      ((uint64_t)1 << 16)
#define CR0_PG      ((uint64_t)1 << 31)
#define CR3_NOFLUSH ((uint64_t)1 << 63) /* in the operand of MOV to CR3 only */
#define CR3_PCID    0xfffull
#define CR4_PSE     ((uint64_t)1 << 4)
#define CR4_PAE     ((uint64_t)1 << 5)
#define CR4_PGE     ((uint64_t)1 << 7)
#define CR4_LA57    ((uint64_t)1 << 12)
#define CR4_PCIDE   ((uint64_t)1 << 17)
#define CR4_SMEP    ((uint64_t)1 << 20)
#define CR4_SMAP    ((uint64_t)1 << 21)
#define CR4_PKE     ((uint64_t)1 << 22)
#define EFER_LME    ((uint64_t)1 << 8)
#define EFER_LMA    ((uint64_t)1 << 10)
#define EFER_NXE    ((uint64_t)1 << 11)

/* Page-fault error code (SDM 4.7, APM 8.4.2). */
#define PF_P    0x01u /* the entry was present: a protection or reserved-bit fault */
#define PF_W    0x02u
#define PF_U    0x04u
#define PF_RSVD 0x08u
#define PF_ID   0x10u
#define PF_PK   0x20u

/* One access. The first five index mmu_mode.denied. */
#define MMU_WRITE 0x01u
#define MMU_USER  0x02u /* CPL 3 */
#define MMU_FETCH 0x04u /* never together with MMU_WRITE */
#define MMU_AC    0x08u /* RFLAGS.AC is set */
#define MMU_IMPLICIT                                                                     \
    0x10u /* the processor's own (GDT, IDT, TSS, ...): supervisor at any CPL */
#define MMU_PROBE       0x20u /* look only: set neither A nor D */
#define MMU_ACCESS_MASK 0x1fu

/* What the entries on a path permit together. */
#define MMU_PERM_W   0x1u
#define MMU_PERM_U   0x2u
#define MMU_PERM_X   0x4u
#define MMU_PERM_ALL 0x7u

enum mmu_format {
    MMU_FORMAT_NONE,   /* CR0.PG = 0: linear addresses are physical, 32 bits */
    MMU_FORMAT_LEGACY, /* 2 levels of 1024 4-byte entries */
    MMU_FORMAT_PAE,    /* 4 PDPTE registers, 2 levels of 512 8-byte entries */
    MMU_FORMAT_LONG,   /* 4 or 5 levels of 512 8-byte entries */
};

/* What CPUID says of the processor; fixed for a vCPU. */
struct mmu_cpu {
    uint8_t maxphyaddr; /* 32 to 52 */
    bool gbpages;       /* 1 GiB pages (CPUID 80000001H:EDX.26) */
    bool pse36;         /* 40-bit addresses in 4 MiB pages (CPUID 1:EDX.17) */
    bool amd;           /* bit 8 of PML4 and PML5 entries is reserved (APM 5.3.3) */
};

#define MMU_CPU_DEFAULT                                                                  \
    {                                                                                    \
        .maxphyaddr = 46, .gbpages = true, .pse36 = true, .amd = false                   \
    }

/* The registers that steer translation, and what follows from them. Fill in the first
 * part, then call mmu_mode_update(); call it again after every change except of CR3,
 * PDPTEs and PKRU (which take effect at once). Plain data: copy it freely. */
struct mmu_mode {
    uint64_t cr0, cr3, cr4, efer;
    uint64_t pdpte[4]; /* PAE: the registers that MOV to CR3 loads (SDM 4.4.1) */
    uint32_t pkru;
    struct mmu_cpu cpu;

    /* Derived. */
    uint8_t format;          /* enum mmu_format */
    uint8_t levels;          /* 0, 2, 3, 4, 5 */
    uint8_t large_levels;    /* bit n: an entry of level n may map a page */
    uint8_t fetch_error;     /* PF_ID when an instruction fetch reports it */
    bool pkeys;              /* PKRU applies */
    bool nx;                 /* bit 63 means no-execute */
    uint8_t denied[32];      /* [access] bit p: permissions p do not allow it */
    uint64_t reserved[2][6]; /* [maps a large page][level]: bits that must be 0 */
};

void mmu_mode_update(struct mmu_mode *mode);

/* 0, or -EINVAL (and why in @reason) for a combination no processor accepts. */
int mmu_mode_check(const struct mmu_mode *mode, const char **reason);

/* One page of a translation: what a TLB holds. */
struct mmu_translation {
    uint64_t
        page; /* address of the page's first byte: GPA, or HPA once nested or shadowed */
    uint8_t shift; /* 12, 21, 22 (legacy) or 30 */
    uint8_t perms; /* MMU_PERM_* */
    uint8_t pkey;
    uint8_t cache; /* PAT << 2 | PCD << 1 | PWT of the leaf */
    bool global;   /* G, and CR4.PGE */
    bool dirty;    /* a write needs no further walk */
};

/* Whether PKRU forbids a data access to a page that is a user page by its entries. */
static inline bool mmu_pkey_denied(const struct mmu_mode *mode, uint8_t perms,
                                   uint8_t pkey, uint32_t access)
{
    uint32_t rights;

    if (!mode->pkeys || !(perms & MMU_PERM_U) || (access & MMU_FETCH)) {
        return false;
    }
    rights = mode->pkru >> (2 * pkey);
    if (rights & 1) {
        return true;
    }
    return (rights & 2) && (access & MMU_WRITE) &&
           ((mode->cr0 & CR0_WP) || (access & (MMU_USER | MMU_IMPLICIT)) == MMU_USER);
}

/* Whether a cached translation serves @access as it is; if not, walk again. */
static inline bool mmu_translation_allows(const struct mmu_mode *mode,
                                          const struct mmu_translation *to,
                                          uint32_t access)
{
    if ((mode->denied[access & MMU_ACCESS_MASK] >> to->perms) & 1) {
        return false;
    }
    if ((access & MMU_WRITE) && !to->dirty) {
        return false;
    }
    return !mode->pkeys || !mmu_pkey_denied(mode, to->perms, to->pkey, access);
}

/* Whether @gva may be used at all in this mode: 48- or 57-bit canonical in 64-bit
 * formats. */
static inline bool mmu_canonical(const struct mmu_mode *mode, uint64_t gva)
{
    unsigned shift = mode->levels == 5 ? 64 - 57 : 64 - 48;

    return mode->format != MMU_FORMAT_LONG ||
           (uint64_t)((int64_t)(gva << shift) >> shift) == gva;
}

static inline unsigned mmu_entry_size(const struct mmu_mode *mode)
{
    return mode->format == MMU_FORMAT_LEGACY ? 4 : 8;
}

/* log2 of what one entry of @level spans. */
static inline unsigned mmu_level_shift(const struct mmu_mode *mode, unsigned level)
{
    return MMU_PAGE_SHIFT + (level - 1) * (mode->format == MMU_FORMAT_LEGACY ? 10 : 9);
}

#endif
