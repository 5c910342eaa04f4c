# find_package(moray CONFIG) gives moray::moray, the shared library, and moray::static.
get_filename_component(_moray_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
foreach(_moray_target IN ITEMS moray static)
  if(NOT TARGET moray::${_moray_target})
    if(_moray_target STREQUAL "static")
      set(_moray_file "${_moray_prefix}/lib/libmoray_c.a")
      add_library(moray::static STATIC IMPORTED)
      set_target_properties(moray::static PROPERTIES INTERFACE_LINK_LIBRARIES "m;pthread;dl;gcc_s")
    else()
      set(_moray_file "${_moray_prefix}/lib/libmoray_c.so")
      add_library(moray::moray SHARED IMPORTED)
    endif()
    set_target_properties(moray::${_moray_target} PROPERTIES
      IMPORTED_LOCATION "${_moray_file}"
      INTERFACE_INCLUDE_DIRECTORIES "${_moray_prefix}/include")
  endif()
endforeach()
