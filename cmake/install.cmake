# SPDX-License-Identifier: MIT
# Install rules, pkg-config file and CMake package.
install(TARGETS umbra-cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS umbra-shared umbra-static umbra-flags EXPORT umbra-targets
    LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
    ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/umbra DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
