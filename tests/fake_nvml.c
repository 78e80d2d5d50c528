/* Which NVML answers does a test want? A fake libnvidia-ml.so.1, written without NVIDIA's header.
 *
 * Every answer is read at every call from the text file $FAKE_NVML_STATE, one "key value" a line:
 *     system.<key> <value>      gpu<N>.<key> <value>      pair<A>.<B>.<key> <value>
 *     fail.<function> <code>    gpu<N>.fail.<function> <code>     that function returns <code>
 * A key that is absent answers NVML_ERROR_NOT_SUPPORTED, as real GPUs do for what they lack.
 *     gpu<N>.slices <n>, gpu<N>/<i>.<key> <value>      MIG: slice <i> is GPU instance <i> + 7
 *     gpu<N>.field.<number> <value>, gpu<N>.gpm.<number> <value>, gpu<N>.pids 12,34, gpu<N>.busy_pids 34
 *     gpu<N>.xid <number>      reported once each time it changes
 * A handle is the GPU's number plus one, of a slice 1000 times that and its number besides. Struct layouts are those
 * that nvidia-ml-py declares.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10 };

typedef void *Handle;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } Pci;

static int users;    /* how many nvmlInit without nvmlShutdown */

static int find(const char *key, char value[128]) {
    char line[256], name[128];
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    int found = 0;
    while (file && !found && fgets(line, sizeof line, file))
        found = sscanf(line, "%127s %127[^\n]", name, value) == 2 && !strcmp(name, key);
    if (file) fclose(file);
    return found;
}

static int text(const char *key, char *out, unsigned size) {
    char value[128];
    if (!find(key, value)) return NOT_SUPPORTED;
    if (strlen(value) >= size) return TOO_SMALL;
    strcpy(out, value);
    return OK;
}

static int number(const char *key, unsigned long long *out) {
    char value[128];
    if (!find(key, value)) return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 0);
    return OK;
}

static int number32(const char *key, unsigned *out) {
    unsigned long long wide;
    int code = number(key, &wide);
    if (code == OK) *out = (unsigned)wide;
    return code;
}

static int count(void) {
    unsigned n = 0;
    return number32("system.gpus", &n) == OK ? (int)n : 0;
}

static int is_slice(Handle handle) { return (long)handle >= 1000; }
static int index_of(Handle handle) { return (int)(is_slice(handle) ? (long)handle / 1000 : (long)handle) - 1; }

static const char *key_of(Handle handle, const char *name, char key[128]) {
    if (is_slice(handle)) snprintf(key, 128, "gpu%d/%d.%s", index_of(handle), (int)((long)handle % 1000), name);
    else snprintf(key, 128, "gpu%d.%s", index_of(handle), name);
    return key;
}

/* What `function` must return before it answers: an injected failure, or that nobody called nvmlInit. */
static int refusal(const char *function, Handle handle) {
    char name[96], key[128];
    unsigned code;
    if (!users) return UNINITIALIZED;
    snprintf(name, sizeof name, "fail.%s", function);
    if (number32(name, &code) == OK || (handle && number32(key_of(handle, name, key), &code) == OK)) return (int)code;
    return handle && (index_of(handle) < 0 || index_of(handle) >= count()) ? INVALID_ARGUMENT : OK;
}

#define ENTER(handle) { int code_ = refusal(__func__, handle); if (code_) return code_; }
#define NUMBER(function, name) \
    int function(Handle h, unsigned *out) { char k[128]; ENTER(h) return number32(key_of(h, name, k), out); }
#define NUMBER_OF_KIND(function, name) \
    int function(Handle h, unsigned kind, unsigned *out) \
    { char k[128]; ENTER(h) (void)kind; return number32(key_of(h, name, k), out); }
#define TEXT(function, name) \
    int function(Handle h, char *out, unsigned size) { char k[128]; ENTER(h) return text(key_of(h, name, k), out, size); }

int nvmlInitWithFlags(unsigned flags) {
    unsigned code;
    (void)flags;
    if (number32("fail.nvmlInitWithFlags", &code) == OK) return (int)code;
    users++;
    return OK;
}

int nvmlShutdown(void) {
    ENTER(NULL)
    users--;
    return OK;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "fake error";    /* nvidia-ml-py has its own words for the codes it knows */
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) { ENTER(NULL) return text("system.driver", out, size); }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER(NULL) return number32("system.cuda", (unsigned *)out); }
int nvmlDeviceGetCount_v2(unsigned *out) { ENTER(NULL) *out = (unsigned)count(); return OK; }
int nvmlDeviceGetIndex(Handle h, unsigned *out) { ENTER(h) *out = (unsigned)index_of(h); return OK; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *out) {
    if ((int)index >= count()) return INVALID_ARGUMENT;
    *out = (Handle)(long)(index + 1);
    ENTER(*out)
    return OK;
}

static int by(const char *name, const char *wanted, Handle *out) {
    char key[128], value[128];
    for (int i = 0; i < count(); i++)
        if (find(key_of((Handle)(long)(i + 1), name, key), value) && !strcmp(value, wanted)) {
            *out = (Handle)(long)(i + 1);
            return OK;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, Handle *out) { ENTER(NULL) return by("uuid", uuid, out); }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, Handle *out) { ENTER(NULL) return by("bus_id", id, out); }

TEXT(nvmlDeviceGetName, "name")
TEXT(nvmlDeviceGetUUID, "uuid")
NUMBER(nvmlDeviceGetPowerUsage, "power_mw")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, "power_default_mw")
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_generation_max")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_width_max")
NUMBER_OF_KIND(nvmlDeviceGetClockInfo, kind == 2 ? "memory_clock_mhz" : "sm_clock_mhz")    /* NVML_CLOCK_MEM */
NUMBER_OF_KIND(nvmlDeviceGetTemperature, "temperature_c")
NUMBER(nvmlDeviceGetPcieReplayCounter, "pcie_replays")
NUMBER(nvmlDeviceGetMaxMigDeviceCount, "slices")
NUMBER_OF_KIND(nvmlDeviceGetMaxClockInfo, "max_sm_clock_mhz")

int nvmlDeviceGetPciInfo_v3(Handle h, Pci *out) {
    char k[128];
    ENTER(h)
    memset(out, 0, sizeof *out);
    return text(key_of(h, "bus_id", k), out->bus_id, sizeof out->bus_id);
}

int nvmlDeviceGetMemoryInfo(Handle h, Memory *out) {
    char k[128];
    ENTER(h)
    int code = number(key_of(h, "memory_bytes", k), &out->total);
    if (code == OK && number(key_of(h, "memory_used_bytes", k), &out->used) != OK) out->used = 0;
    if (code == OK) out->free = out->total - out->used;
    return code;
}

int nvmlDeviceGetCudaComputeCapability(Handle h, int *major, int *minor) {
    char k[128];
    unsigned packed = 0;    /* 90 is 9.0 */
    ENTER(h)
    int code = number32(key_of(h, "compute_capability", k), &packed);
    *major = (int)packed / 10, *minor = (int)packed % 10;
    return code;
}

int nvmlDeviceGetCurrentClocksEventReasons(Handle h, unsigned long long *out) {
    char k[128];
    ENTER(h)
    return number(key_of(h, "clocks_event_reasons", k), out);
}

int nvmlDeviceGetPowerManagementLimitConstraints(Handle h, unsigned *low, unsigned *high) {
    char k[128];
    ENTER(h)
    *low = 0;
    return number32(key_of(h, "power_max_mw", k), high);
}

int nvmlDeviceGetMigMode(Handle h, unsigned *current, unsigned *pending) {
    char k[128];
    ENTER(h)
    int code = number32(key_of(h, "mig", k), current);
    if (code == OK) *pending = *current;
    return code;
}

/* gpu<N>.nvlinks: links in all; gpu<N>.nvlinks_up: the first so many are up; gpu<N>.nvlink_peer: "switch" or a bus id. */
int nvmlDeviceGetNvLinkState(Handle h, unsigned link, unsigned *up) {
    char k[128];
    unsigned links = 0, active = 0;
    ENTER(h)
    if (number32(key_of(h, "nvlinks", k), &links) != OK) return NOT_SUPPORTED;
    if (link >= links) return INVALID_ARGUMENT;
    *up = number32(key_of(h, "nvlinks_up", k), &active) != OK || link < active;
    return OK;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(Handle h, unsigned link, unsigned *out) {
    char k[128], peer[128];
    ENTER(h)
    (void)link;
    if (!find(key_of(h, "nvlink_peer", k), peer)) return NOT_SUPPORTED;
    *out = strcmp(peer, "switch") ? 0 : 2;
    return OK;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Handle h, unsigned link, Pci *out) {
    char k[128];
    ENTER(h)
    (void)link;
    memset(out, 0, sizeof *out);
    return text(key_of(h, "nvlink_peer", k), out->bus_id, sizeof out->bus_id);
}

static int of_pair(Handle a, Handle b, const char *name, unsigned *out) {
    char key[128];
    snprintf(key, sizeof key, "pair%d.%d.%s", index_of(a), index_of(b), name);
    return number32(key, out);
}

int nvmlDeviceGetP2PStatus(Handle a, Handle b, unsigned kind, unsigned *out) {
    ENTER(a)
    return of_pair(a, b, kind == 2 ? "nvlink" : "read", out);    /* 2: NVML_P2P_CAPS_INDEX_NVLINK */
}

int nvmlDeviceGetTopologyCommonAncestor(Handle a, Handle b, unsigned *out) {
    ENTER(a)
    return of_pair(a, b, "path", out);
}

/* --- what is sampled again and again ------------------------------------------------------------------------- */

typedef struct { unsigned gpu, memory; } Utilisation;
typedef struct { unsigned version, sensor; int celsius; } Temperature;
typedef struct { unsigned field, scope; long long at, latency; unsigned type; int code; unsigned long long value; } Field;
typedef struct { unsigned pid; unsigned long long bytes; unsigned instance, compute; } Process;
typedef struct { unsigned pid; unsigned long long at; unsigned sm, memory, encoder, decoder; } Use;
typedef struct { Handle device; unsigned long long type, data; unsigned instance, compute; } Event;
typedef struct { unsigned id; int code; double value; const char *names[3]; } Metric;
typedef struct { unsigned version, count; Handle *older, *newer; Metric metrics[]; } Metrics;
typedef struct { unsigned version, supported; } Support;

int nvmlDeviceGetUtilizationRates(Handle h, Utilisation *out) {
    char k[128];
    ENTER(h)
    out->memory = 0;
    number32(key_of(h, "memory_utilisation_percent", k), &out->memory);
    return number32(key_of(h, "utilisation_percent", k), &out->gpu);
}

int nvmlDeviceGetTotalEnergyConsumption(Handle h, unsigned long long *out) {
    char k[128];
    ENTER(h)
    return number(key_of(h, "energy_mj", k), out);
}

int nvmlDeviceGetTemperatureV(Handle h, Temperature *out) {
    char k[128];
    ENTER(h)
    return number32(key_of(h, "temperature_c", k), (unsigned *)&out->celsius);
}

int nvmlDeviceGetTotalEccErrors(Handle h, unsigned kind, unsigned counter, unsigned long long *out) {
    char k[128];
    ENTER(h)
    (void)counter;
    return number(key_of(h, kind ? "ecc_uncorrected" : "ecc_corrected", k), out);
}

int nvmlDeviceGetFieldValues(Handle h, int count_, Field *fields) {
    char k[128], name[64];
    ENTER(h)
    for (int i = 0; i < count_; i++) {
        snprintf(name, sizeof name, "field.%u", fields[i].field);
        fields[i].type = 3;    /* unsigned long long */
        fields[i].code = number(key_of(h, name, k), &fields[i].value);
    }
    return OK;
}

/* The numbers in a list "12,34", at most `most` of them. */
static unsigned pids(Handle h, const char *name, unsigned *out, unsigned most) {
    char k[128], value[128];
    unsigned n = 0;
    if (!find(key_of(h, name, k), value)) return 0;
    for (char *part = strtok(value, ","); part && n < most; part = strtok(NULL, ",")) out[n++] = (unsigned)atoi(part);
    return n;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Handle h, unsigned *count_, Process *out) {
    char k[128], value[128];
    unsigned found[16];
    ENTER(h)
    if (!find(key_of(h, "pids", k), value)) return NOT_SUPPORTED;
    unsigned n = pids(h, "pids", found, 16);
    if (*count_ < n || (n && !out)) { *count_ = n; return TOO_SMALL; }
    for (unsigned i = 0; i < n; i++) out[i] = (Process){ found[i], 1 << 20, 0, 0 };
    *count_ = n;
    return OK;
}

int nvmlDeviceGetProcessUtilization(Handle h, Use *out, unsigned *count_, unsigned long long since) {
    unsigned found[16];
    ENTER(h)
    unsigned n = pids(h, "busy_pids", found, 16);
    if (!n) return NOT_FOUND;
    if (!out) { *count_ = n; return TOO_SMALL; }
    for (unsigned i = 0; i < n; i++) out[i] = (Use){ found[i], since, 50, 0, 0, 0 };
    *count_ = n;
    return OK;
}

/* One set is enough. */
static unsigned long long told[16];
static Handle watched[16];
static unsigned watchers;

int nvmlEventSetCreate(Handle *out) {
    ENTER(NULL)
    *out = (Handle)told;
    watchers = 0;
    memset(told, 0, sizeof told);
    return OK;
}

int nvmlDeviceRegisterEvents(Handle h, unsigned long long types, Handle set) {
    ENTER(h)
    (void)types, (void)set;
    if (watchers < 16) watched[watchers++] = h;
    return OK;
}

int nvmlEventSetWait_v2(Handle set, Event *out, unsigned timeout_ms) {
    char k[128];
    unsigned long long xid;
    ENTER(NULL)
    (void)set, (void)timeout_ms;
    for (unsigned i = 0; i < watchers; i++)
        if (number(key_of(watched[i], "xid", k), &xid) == OK && xid != told[i]) {
            told[i] = xid;
            *out = (Event){ watched[i], 8, xid, 0, 0 };    /* 8: nvmlEventTypeXidCriticalError */
            return OK;
        }
    return TIMEOUT;
}

int nvmlEventSetFree(Handle set) { ENTER(NULL) (void)set; return OK; }

int nvmlDeviceGetMigDeviceHandleByIndex(Handle h, unsigned index, Handle *out) {
    char k[128];
    unsigned slices = 0;
    ENTER(h)
    number32(key_of(h, "slices", k), &slices);
    *out = (Handle)((long)h * 1000 + (long)index);
    return index < slices ? OK : NOT_FOUND;
}

int nvmlDeviceGetGpuInstanceId(Handle h, unsigned *out) {
    ENTER(h)
    *out = (unsigned)((long)h % 1000) + 7;
    return is_slice(h) ? OK : INVALID_ARGUMENT;
}

int nvmlGpmQueryDeviceSupport(Handle h, Support *out) {
    char k[128];
    ENTER(h)
    out->supported = 0;
    number32(key_of(h, "gpm", k), &out->supported);
    return OK;
}

int nvmlGpmSampleAlloc(Handle **out) { ENTER(NULL) *out = calloc(1, sizeof(Handle)); return OK; }
int nvmlGpmSampleFree(Handle *sample) { free(sample); return OK; }
int nvmlGpmSampleGet(Handle h, Handle *sample) { ENTER(h) *sample = h; return OK; }

int nvmlGpmMigSampleGet(Handle h, unsigned instance, Handle *sample) {
    ENTER(h)
    *sample = (Handle)((long)h * 1000 + (long)instance - 7);
    return OK;
}

int nvmlGpmMetricsGet(Metrics *question) {
    char k[128], name[64], value[128];
    ENTER(*question->newer)
    for (unsigned i = 0; i < question->count; i++) {
        Metric *metric = &question->metrics[i];
        snprintf(name, sizeof name, "gpm.%u", metric->id);
        int there = find(key_of(*question->newer, name, k), value);
        metric->code = there ? OK : NOT_SUPPORTED;
        metric->value = there ? strtod(value, NULL) : 0;
    }
    return OK;
}
