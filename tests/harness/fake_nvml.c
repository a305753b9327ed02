/* A libnvidia-ml.so.1 without a GPU, for the real bindings to talk to. Written from the documented interface.

   Which card it plays is in CANVASBENCH_FAKE_NVML: h100, geforce, gb10, mig or broken. Its numbers are made up; which
   questions a card refuses encodes reports from the field and no measurement of ours. What happens to the card:
     CANVASBENCH_FAKE_THROTTLE=BITS      its clock event reasons; else 0x4, the power cap
     CANVASBENCH_FAKE_CLOCK=MHZ          its SM clock; else 1980
     CANVASBENCH_FAKE_PID=PID            a compute process on it
     CANVASBENCH_FAKE_WHILE=PATH         all of these only as long as this file is there
     CANVASBENCH_FAKE_INIT=CODE          NVML does not begin, for example 18: driver and library do not fit together
     CANVASBENCH_FAKE_NO_ENERGY=1        no energy counter
     CANVASBENCH_FAKE_COUNTER_W=W        by how much the counter moves in a second; else by its power
     CANVASBENCH_FAKE_ENERGY_RESET=1     the counter was reset before each reading, which is below the one before
   Built with -DWITHOUT_NEW_CALLS it lacks symbols, as an old driver does. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7, LOST = 15 };
typedef struct { int is_instance; } Device;
static Device card = {0}, instance = {1};
static unsigned energy_readings = 0;

static int plays(const char *name) {
    const char *profile = getenv("CANVASBENCH_FAKE_NVML");
    return profile && !strcmp(profile, name);
}

/* What a scripted variable says, as long as it does. */
static const char *scripted(const char *name) {
    const char *path = getenv("CANVASBENCH_FAKE_WHILE");
    return path && access(path, F_OK) ? NULL : getenv(name);
}

/* What a sensor of this device answers before it has a number. */
static int sensor(const Device *device) {
    if (plays("broken")) return LOST;
    return device->is_instance ? INVALID : OK;
}

static int text(char *out, const char *value, unsigned length) {
    snprintf(out, length, "%s", value);
    return OK;
}

static int begin(void) {
    const char *code = getenv("CANVASBENCH_FAKE_INIT");
    return code ? atoi(code) : OK;
}
int nvmlInitWithFlags(unsigned flags) { return begin(); }
int nvmlInit_v2(void) { return begin(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "the fake says no"; }
int nvmlSystemGetDriverVersion(char *out, unsigned length) { return text(out, "580.95.05", length); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13000; return OK; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = 1; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **out) { *out = &card; return index ? INVALID : OK; }

int nvmlDeviceGetName(Device *device, char *out, unsigned length) {
    if (plays("geforce")) return text(out, "NVIDIA GeForce RTX 5090", length);
    return text(out, plays("gb10") ? "NVIDIA GB10" : "NVIDIA H100 80GB HBM3", length);
}

int nvmlDeviceGetUUID(Device *device, char *out, unsigned length) {
    return text(out, device->is_instance ? "MIG-fa4e0000-0001" : "GPU-fa4e0000-0000", length);
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    *current = *pending = plays("mig");
    return plays("geforce") || plays("gb10") ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) { *count = 7; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **out) {
    *out = &instance;
    return plays("mig") && index == 1 ? OK : NOT_FOUND; /* slots may be empty */
}

int nvmlDeviceGetClockInfo(Device *device, int type, unsigned *mhz) {
    const char *clock = scripted("CANVASBENCH_FAKE_CLOCK");
    *mhz = type == 1 ? (clock ? (unsigned)atoi(clock) : 1980) : 2619; /* 1: SM, 2: memory */
    return type == 2 && plays("gb10") ? NOT_SUPPORTED : sensor(device);
}

static int reasons(Device *device, unsigned long long *bits) {
    const char *throttle = scripted("CANVASBENCH_FAKE_THROTTLE");
    *bits = throttle ? strtoull(throttle, NULL, 0) : 0x4;
    return sensor(device);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *bits) { return reasons(device, bits); }

int nvmlDeviceGetTemperature(Device *device, int which, unsigned *celsius) { *celsius = 61; return sensor(device); }
int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) { *milliwatts = 650000; return sensor(device); }
int nvmlDeviceGetPowerManagementLimit(Device *device, unsigned *milliwatts) {
    *milliwatts = 700000;
    return plays("gb10") ? NOT_SUPPORTED : sensor(device);
}
int nvmlDeviceGetNumGpuCores(Device *device, unsigned *cores) { *cores = 16896; return sensor(device); }
int nvmlDeviceGetPersistenceMode(Device *device, unsigned *on) { *on = !plays("geforce"); return sensor(device); }
int nvmlDeviceGetEccMode(Device *device, unsigned *current, unsigned *pending) {
    *current = *pending = 1;
    return plays("geforce") || plays("gb10") ? NOT_SUPPORTED : sensor(device);
}

typedef struct { unsigned gpu, memory; } Utilisation;
int nvmlDeviceGetUtilizationRates(Device *device, Utilisation *out) {
    out->gpu = 97;
    out->memory = 60;
    return plays("mig") ? NOT_SUPPORTED : sensor(device);
}

typedef struct { unsigned id, scope; long long time, latency; int type, result; union { unsigned u; double d; } value; } Field;
int nvmlDeviceGetFieldValues(Device *device, int count, Field *fields) {
    for (int i = 0; i < count; i++) {
        fields[i].result = plays("geforce") ? NOT_SUPPORTED : sensor(device);
        fields[i].value.u = 655000;
    }
    return OK;
}

typedef struct { unsigned long long total, free, used; } Memory;
int nvmlDeviceGetMemoryInfo(Device *device, Memory *out) {
    out->total = device->is_instance ? 10ULL << 30 : 80ULL << 30;
    out->free = out->total - (1ULL << 30);
    out->used = 1ULL << 30;
    return plays("broken") ? LOST : plays("gb10") ? NOT_SUPPORTED : OK;
}

#ifndef WITHOUT_NEW_CALLS
int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *bits) { return reasons(device, bits); }

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory2;
int nvmlDeviceGetMemoryInfo_v2(Device *device, Memory2 *out) {
    out->total = device->is_instance ? 10ULL << 30 : 80ULL << 30;
    out->reserved = 1ULL << 29;
    out->free = out->total - (3ULL << 29);
    out->used = 1ULL << 30;
    return plays("broken") ? LOST : plays("gb10") ? NOT_SUPPORTED : OK;
}

int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    const char *counter_w = getenv("CANVASBENCH_FAKE_COUNTER_W");
    struct timespec now;
    if (getenv("CANVASBENCH_FAKE_NO_ENERGY")) return NOT_SUPPORTED;
    clock_gettime(CLOCK_MONOTONIC, &now);
    *millijoules = (1000ULL * now.tv_sec + now.tv_nsec / 1000000) * (counter_w ? atoi(counter_w) : 655);
    if (getenv("CANVASBENCH_FAKE_ENERGY_RESET")) *millijoules = 1000000000ULL - 1000 * ++energy_readings;
    return sensor(device);
}

typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } Process;
int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *out) {
    const char *pid = scripted("CANVASBENCH_FAKE_PID");
    unsigned room = *count;
    if (plays("broken")) return LOST;
    *count = pid ? 1 : 0;
    if (!pid) return OK;
    if (!out || room < 1) return SMALL;
    memset(out, 0, sizeof *out);
    out->pid = (unsigned)atoi(pid);
    return OK;
}
#endif
