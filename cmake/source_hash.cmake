# Writes a C++ file with the hash of SOURCES: cmake -DSOURCES=... -DOUTPUT=... -DVERSION=... -P source_hash.cmake
set(hashes ${VERSION})
foreach(file ${SOURCES})
  file(SHA256 ${file} hash)
  string(APPEND hashes ${hash})
endforeach()
string(SHA256 hash "${hashes}")
string(SUBSTRING ${hash} 0 24 hash)
file(WRITE ${OUTPUT} "namespace ag::codegen {\nextern const char* const source_hash;\nconst char* const source_hash = \"${hash}\";\n}\n")
