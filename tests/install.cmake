# Installs into a fresh folder, builds examples/ against what is there, and runs it on a tiny model.
#   cmake -DBUILD=... -DSOURCE=... -DRANDOM_GGUF=... -P install.cmake
set(scratch ${BUILD}/install_test)
file(REMOVE_RECURSE ${scratch})
file(MAKE_DIRECTORY ${scratch})

function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${ARGN}\nended with ${status}:\n${out}")
  endif()
  set(out "${out}" PARENT_SCOPE)
endfunction()

run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${scratch}/prefix)
run(${CMAKE_COMMAND} -S ${SOURCE}/examples -B ${scratch}/examples
    -DCMAKE_PREFIX_PATH=${scratch}/prefix)
run(${CMAKE_COMMAND} --build ${scratch}/examples)
run(${RANDOM_GGUF} ${scratch}/tiny.gguf --shape tiny --type q8_0)
run(${scratch}/examples/answer ${scratch}/tiny.gguf "Hello")
if(NOT out MATCHES "\\[[0-9]+ tokens, ")
  message(FATAL_ERROR "the example printed:\n${out}")
endif()
run(${scratch}/prefix/bin/weft --version)
if(NOT EXISTS ${scratch}/prefix/share/weft/models/reasoner-tokenizer/tokenizer.json)
  message(FATAL_ERROR "the models that come with weft are not installed")
endif()
file(REMOVE_RECURSE ${scratch})
