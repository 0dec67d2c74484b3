# Writes a C++ file that defines the variable NAME (in namespace ag) with the hash of SOURCES:
# cmake -DSOURCES=... -DOUTPUT=... -DVERSION=... -DNAME=... -P source_hash.cmake
set(hashes ${VERSION})
foreach(file ${SOURCES})
  file(SHA256 ${file} hash)
  string(APPEND hashes ${hash})
endforeach()
string(SHA256 hash "${hashes}")
string(SUBSTRING ${hash} 0 24 hash)
string(REGEX MATCH "^[^:]*" space ${NAME})
string(REGEX MATCH "[^:]*$" name ${NAME})
file(WRITE ${OUTPUT} "namespace ag::${space} {\nextern const char* const ${name};\nconst char* const ${name} = \"${hash}\";\n}\n")
