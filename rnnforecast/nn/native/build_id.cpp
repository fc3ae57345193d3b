// The hash of all sources here, given by the build: Python refuses a library of other sources.
#ifndef RNNF_SOURCES
#define RNNF_SOURCES "unknown"
#endif

extern "C" __attribute__((visibility("default"))) const char* rnnf_sources() {
  return RNNF_SOURCES;
}
