# Installs BINARY_DIR below PREFIX, then builds and runs the program in consumer/ against it.
file(REMOVE_RECURSE ${PREFIX})
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE rc OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(NOT rc EQUAL 0)
    message(FATAL_ERROR "${ARGN} ended with ${rc}\n${out}")
  endif()
endfunction()
run(${CMAKE_COMMAND} --install ${BINARY_DIR} --prefix ${PREFIX}/usr)
run(${CMAKE_COMMAND} -S ${SOURCE_DIR}/consumer -B ${PREFIX}/build -DCMAKE_PREFIX_PATH=${PREFIX}/usr
    -DCMAKE_CXX_COMPILER=${CXX})
run(${CMAKE_COMMAND} --build ${PREFIX}/build)
run(${PREFIX}/build/consumer)
