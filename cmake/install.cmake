# SPDX-License-Identifier: MIT
# Install rules, pkg-config file and CMake package.
set(UMBRA_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/umbra)

install(TARGETS umbra-cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY include/umbra DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
# Two export sets: users of the shared library need none of what the static one needs.
install(TARGETS umbra-shared EXPORT umbra-shared-targets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS umbra-static EXPORT umbra-static-targets
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(kind shared static)
    install(EXPORT umbra-${kind}-targets NAMESPACE umbra:: DESTINATION ${UMBRA_CMAKE_DIR})
endforeach()

configure_package_config_file(cmake/umbra-config.cmake.in
    ${PROJECT_BINARY_DIR}/umbra-config.cmake INSTALL_DESTINATION ${UMBRA_CMAKE_DIR})
# Before 1.0 a new minor version may change the API.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/umbra-config-version.cmake
    COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/umbra-config.cmake
    ${PROJECT_BINARY_DIR}/umbra-config-version.cmake DESTINATION ${UMBRA_CMAKE_DIR})

string(REPLACE ";" " " UMBRA_PC_REQUIRES "${UMBRA_PKG_MODULES}")
list(TRANSFORM UMBRA_PLAIN_LIBS PREPEND -l OUTPUT_VARIABLE UMBRA_PC_LIBS)
list(JOIN UMBRA_PC_LIBS " " UMBRA_PC_LIBS)
file(RELATIVE_PATH UMBRA_PC_UP /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" UMBRA_PC_UP "${UMBRA_PC_UP}")
configure_file(cmake/umbra.pc.in ${PROJECT_BINARY_DIR}/umbra.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/umbra.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

foreach(section 1 3 5)
    file(GLOB pages CONFIGURE_DEPENDS docs/man/*.${section})
    if(pages)
        install(FILES ${pages} DESTINATION ${CMAKE_INSTALL_MANDIR}/man${section})
    endif()
endforeach()
