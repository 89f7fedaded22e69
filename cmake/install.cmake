# The program, the library with its public header, and what find_package(weft) reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set_target_properties(weft_api PROPERTIES EXPORT_NAME weft VERSION ${PROJECT_VERSION}
                      SOVERSION ${PROJECT_VERSION_MAJOR})
target_include_directories(weft_api PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                           $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)

install(TARGETS weft RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS weft_api EXPORT weft LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES include/weft/weft.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/weft)

set(weft_package ${CMAKE_INSTALL_LIBDIR}/cmake/weft)
install(EXPORT weft FILE weft-config.cmake NAMESPACE weft:: DESTINATION ${weft_package})
write_basic_package_version_file(${CMAKE_BINARY_DIR}/weft-config-version.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/weft-config-version.cmake DESTINATION ${weft_package})

# The models that come with weft.
install(DIRECTORY share/models DESTINATION ${CMAKE_INSTALL_DATADIR}/weft PATTERN make.py EXCLUDE)
