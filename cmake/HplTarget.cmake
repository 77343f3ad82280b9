# Compiler flags for every target, and the two ways a folder declares one.

add_library(hpl_flags INTERFACE)
target_include_directories(hpl_flags INTERFACE ${CMAKE_SOURCE_DIR})
target_compile_definitions(hpl_flags INTERFACE
  _GNU_SOURCE _FILE_OFFSET_BITS=64 HPL_VERSION="${PROJECT_VERSION}")
target_compile_options(hpl_flags INTERFACE
  -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith
  -Wvla -Wwrite-strings -Wundef -Wformat=2 -Wno-format-nonliteral -Wno-missing-field-initializers
  -fno-strict-aliasing -fno-common -fstack-protector-strong -fvisibility=hidden
  "-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=") # what is built, errors of OpenSSL's included, does not tell where
if(HPL_WERROR)
  target_compile_options(hpl_flags INTERFACE -Werror)
endif()
if(HPL_SANITIZE)
  target_compile_options(hpl_flags INTERFACE -fsanitize=${HPL_SANITIZE} -fno-omit-frame-pointer -g -O1)
  target_link_options(hpl_flags INTERFACE -fsanitize=${HPL_SANITIZE})
  if(HPL_SANITIZE MATCHES "undefined")
    target_compile_options(hpl_flags INTERFACE -fno-sanitize-recover=all)
  endif()
else()
  target_compile_options(hpl_flags INTERFACE $<$<CONFIG:Release>:-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2 -g>)
endif()
target_link_options(hpl_flags INTERFACE -Wl,-z,relro,-z,now)

# hpl_library(NAME SOURCES a.c b.c DEPS hpl_base PkgConfig::X)
function(hpl_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC hpl_flags ${ARG_DEPS})
endfunction()

# hpl_program(NAME SOURCES main.c DEPS ...): lands in bin/
function(hpl_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE hpl_flags ${ARG_DEPS})
endfunction()
