# SPDX-License-Identifier: MIT
# Freestanding guests: programs for the machine that umbra makes, not for this host.
# Include it in a directory of guests only: it empties that directory's compiler flags, so
# that sanitizers, coverage, PIE or hardening meant for the host do not reach them.
foreach(config "" _DEBUG _RELEASE _RELWITHDEBINFO _MINSIZEREL)
    foreach(flags C_FLAGS ASM_FLAGS EXE_LINKER_FLAGS)
        set(CMAKE_${flags}${config} "")
    endforeach()
endforeach()
set(CMAKE_POSITION_INDEPENDENT_CODE OFF)
set(CMAKE_INTERPROCEDURAL_OPTIMIZATION OFF)

set(GUEST_SOURCE_DIR ${PROJECT_SOURCE_DIR}/src/vmm/guest)
set(GUEST_COMPILE_OPTIONS
    -O2 -m64 -ffreestanding -mno-red-zone -mgeneral-regs-only -fno-pic -fno-pie
    -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables
    -fno-strict-aliasing -fno-delete-null-pointer-checks -fno-tree-vectorize
    -U_FORTIFY_SOURCE
    $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Wshadow -Wstrict-prototypes
    -Wmissing-prototypes -Wno-unused-parameter>
    $<$<BOOL:${UMBRA_WERROR}>:-Werror>)

# guest_add(NAME sources...): NAME.elf in this directory's binary directory, an ELF64 image
# with a multiboot header and a PVH note, made of the runtime and the given sources.
function(guest_add name)
    add_executable(guest-${name} ${GUEST_SOURCE_DIR}/boot.S ${ARGN})
    target_compile_options(guest-${name} PRIVATE ${GUEST_COMPILE_OPTIONS})
    target_include_directories(guest-${name} PRIVATE ${PROJECT_SOURCE_DIR}/src)
    target_link_libraries(guest-${name} PRIVATE guest-runtime)
    target_link_options(guest-${name} PRIVATE
        -m64 -nostdlib -static -Wl,-T,${GUEST_SOURCE_DIR}/guest.ld
        -Wl,-z,max-page-size=4096 -Wl,--build-id=none -Wl,--no-warn-rwx-segments)
    set_target_properties(guest-${name} PROPERTIES
        OUTPUT_NAME ${name}.elf LINK_DEPENDS ${GUEST_SOURCE_DIR}/guest.ld
        RUNTIME_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR})
endfunction()
