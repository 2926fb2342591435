# What `make install` puts where: two static libraries made of the rooms' objects (libfovea-kernels.a:
# base and kernels; libfovea.a: all others), the headers that are not marked as private, the program,
# the recipes, a CMake package and two pkg-config files. Nothing installed holds a path of the build.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# Headers of a room that only its own sources include. Tests' headers and -inl.h stay here anyway.
set(private_headers
    formats/image_codec.h formats/onnx_forms.h formats/onnx_nodes.h formats/recipe_parse.h
    formats/tensorboard_message.h
    kernels/adamw_step.h kernels/amx.h kernels/amx_emulator.h kernels/attention_backward_blocks.h
    kernels/attention_backward_tiled.h kernels/attention_cache.h kernels/attention_decode.h
    kernels/attention_decode_links.h kernels/attention_dropout.h kernels/attention_normalise_ref.h
    kernels/attention_panels.h kernels/attention_rows.h kernels/attention_seen.h
    kernels/attention_shared_sums.h kernels/attention_short.h kernels/attention_short_avx512bf16.h
    kernels/attention_strip.h kernels/attention_tiled.h kernels/avx512_bf16.h kernels/c_interface.h
    kernels/dnnl_support.h kernels/elementwise_blocks.h kernels/elementwise_scalar.h
    kernels/hwy_lists.h kernels/hwy_targets.h kernels/linear_attention_layout.h
    kernels/linear_dnnl.h kernels/linear_finish.h kernels/norm_hwy.h kernels/normaliser_row.h
    kernels/pair_attention_layout.h kernels/storage.h kernels/tensor_blocks.h passes/uses.h)

# The names after -l of what a room's target links, in `out`; rooms are left out.
function(fovea_link_names target out)
  set(names "")
  get_target_property(items ${target} LINK_LIBRARIES)
  foreach(item ${items})
    string(REGEX REPLACE "^\\$<LINK_ONLY:(.*)>$" "\\1" item "${item}")
    set(location "")
    if(item STREQUAL "Threads::Threads")
      list(APPEND names pthread)
      continue()
    elseif(item MATCHES "^fovea_|^-")
      continue()
    elseif(TARGET ${item})
      get_target_property(configurations ${item} IMPORTED_CONFIGURATIONS)
      foreach(property IMPORTED_LOCATION ${configurations})
        if(NOT property STREQUAL "IMPORTED_LOCATION")
          set(property IMPORTED_LOCATION_${property})
        endif()
        get_target_property(found ${item} ${property})
        if(found)
          set(location ${found})
        endif()
      endforeach()
    else()
      set(location ${item})
    endif()
    if(location)
      get_filename_component(name ${location} NAME)
      string(REGEX REPLACE "^lib(.*)\\.(so|a)(\\..*)?$" "\\1" name "${name}")
      list(APPEND names ${name})
    endif()
  endforeach()
  set(${out} ${names} PARENT_SCOPE)
endfunction()

# One library of several rooms, installed and exported as Fovea::NAME.
function(fovea_package_library name output)
  set(objects "")
  set(libraries "")
  foreach(room ${ARGN})
    list(APPEND objects $<TARGET_OBJECTS:${room}>)
    fovea_link_names(${room} names)
    list(APPEND libraries ${names})
  endforeach()
  list(REMOVE_DUPLICATES libraries)
  list(REMOVE_ITEM libraries pthread)
  # The last two for programs in C, which are linked by a C compiler.
  list(APPEND libraries pthread stdc++ m)
  add_library(package_${name} STATIC ${objects})
  set_target_properties(package_${name} PROPERTIES LINKER_LANGUAGE CXX OUTPUT_NAME ${output}
                        EXPORT_NAME ${name})
  target_link_libraries(package_${name} INTERFACE ${libraries})
  target_include_directories(package_${name} INTERFACE
                             $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  set(FOVEA_${name}_LIBRARIES ${libraries} PARENT_SCOPE)
endfunction()

get_property(rooms DIRECTORY ${PROJECT_SOURCE_DIR}/fovea PROPERTY BUILDSYSTEM_TARGETS)
list(FILTER rooms EXCLUDE REGEX "_test$")
list(REMOVE_ITEM rooms fovea_base fovea_kernels)
fovea_package_library(kernels fovea-kernels fovea_base fovea_kernels)
fovea_package_library(fovea fovea ${rooms})
target_link_libraries(package_fovea INTERFACE package_kernels)
target_compile_features(package_fovea INTERFACE cxx_std_20)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Fovea)
install(TARGETS package_fovea package_kernels EXPORT FoveaTargets)
install(EXPORT FoveaTargets NAMESPACE Fovea:: DESTINATION ${package_dir})
set(FOVEA_LIBRARIES ${FOVEA_kernels_LIBRARIES} ${FOVEA_fovea_LIBRARIES})
list(REMOVE_DUPLICATES FOVEA_LIBRARIES)
configure_package_config_file(cmake/FoveaConfig.cmake.in ${PROJECT_BINARY_DIR}/package/FoveaConfig.cmake
                              INSTALL_DESTINATION ${package_dir})
# Before version 1 a minor version may change the interface.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/package/FoveaConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/package/FoveaConfig.cmake
              ${PROJECT_BINARY_DIR}/package/FoveaConfigVersion.cmake DESTINATION ${package_dir})

# pkg-config: everything stands under Libs, since the libraries are static. The paths are relative to
# the file, so the folder may be moved.
set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH FOVEA_PC_PREFIX /prefix/${pkgconfig_dir} /prefix)
string(REGEX REPLACE "/$" "" FOVEA_PC_PREFIX "${FOVEA_PC_PREFIX}")
foreach(name fovea kernels)
  list(TRANSFORM FOVEA_${name}_LIBRARIES PREPEND "-l" OUTPUT_VARIABLE flags)
  list(JOIN flags " " FOVEA_PC_${name}_LIBS)
endforeach()
foreach(file fovea.pc fovea-kernels.pc)
  configure_file(cmake/${file}.in ${PROJECT_BINARY_DIR}/package/${file} @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/package/${file} DESTINATION ${pkgconfig_dir})
endforeach()

file(GLOB headers CONFIGURE_DEPENDS RELATIVE ${PROJECT_SOURCE_DIR}/fovea
     ${PROJECT_SOURCE_DIR}/fovea/*.h ${PROJECT_SOURCE_DIR}/fovea/*/*.h)
list(FILTER headers EXCLUDE REGEX "_test\\.h$|/test_[^/]*\\.h$|-inl\\.h$")
foreach(header ${private_headers})
  if(NOT EXISTS ${PROJECT_SOURCE_DIR}/fovea/${header})
    message(FATAL_ERROR "cmake/install.cmake: there is no header fovea/${header}")
  endif()
endforeach()
list(REMOVE_ITEM headers ${private_headers})
foreach(header ${headers})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES fovea/${header} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/fovea/${folder}
          COMPONENT headers)
endforeach()

install(TARGETS fovea_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
# Manual pages and completions (cli/CMakeLists.txt); OPTIONAL for those who built the program alone.
install(DIRECTORY ${PROJECT_BINARY_DIR}/share/ DESTINATION ${CMAKE_INSTALL_DATADIR} OPTIONAL
        PATTERN made EXCLUDE)
install(DIRECTORY recipes DESTINATION ${CMAKE_INSTALL_DATADIR}/fovea)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
