# Included by llama.cpp's own project() call (CMAKE_PROJECT_<name>_INCLUDE).
#
# ggml hands a define for every backend (GGML_USE_RPC, GGML_USE_CUDA, ...) to
# whatever links it. libllama reads none of them, but its objects would all be
# compiled again whenever a backend is switched on or off. Kept to ggml itself, the
# switch compiles that backend and ggml's registry.
function(llama_sys_narrow_defines)
    get_target_property(defines ggml INTERFACE_COMPILE_DEFINITIONS)
    if(defines)
        list(FILTER defines EXCLUDE REGEX "^GGML_USE_")
        set_property(TARGET ggml PROPERTY INTERFACE_COMPILE_DEFINITIONS ${defines})
    endif()
endfunction()
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL llama_sys_narrow_defines)
