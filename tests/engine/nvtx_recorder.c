/* Writes every NVTX domain event of a process as one JSON line to the file named by NVTX_RECORDER_OUT.
 *
 * NVTX loads it when NVTX_INJECTION64_PATH names it, and then calls InitializeInjectionNvtx2. It leaves the extension
 * initialiser out on purpose: the Python package then takes every domain for enabled. Handles that NVTX asks for are
 * simply copies of the names.
 */
#include <nvtx3/nvToolsExt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *out;

static nvtxDomainHandle_t domain_create(const char *name) {
    fprintf(out, "{\"event\": \"domain\", \"name\": \"%s\"}\n", name);
    return (nvtxDomainHandle_t)strdup(name);
}

static nvtxStringHandle_t register_string(nvtxDomainHandle_t domain, const char *text) {
    (void)domain;
    return (nvtxStringHandle_t)strdup(text);
}

static void name_category(nvtxDomainHandle_t domain, uint32_t id, const char *name) {
    fprintf(out, "{\"event\": \"category\", \"domain\": \"%s\", \"id\": %u, \"name\": \"%s\"}\n", (const char *)domain,
            id, name);
}

static int push(nvtxDomainHandle_t domain, const nvtxEventAttributes_t *a) {
    const char *name = a->messageType == NVTX_MESSAGE_TYPE_REGISTERED ? (const char *)a->message.registered
                                                                      : a->message.ascii;
    char payload[32] = "null";
    if (a->payloadType == NVTX_PAYLOAD_TYPE_INT64) snprintf(payload, sizeof payload, "%lld", (long long)a->payload.llValue);
    fprintf(out, "{\"event\": \"push\", \"domain\": \"%s\", \"name\": \"%s\", \"category\": %u, \"payload\": %s}\n",
            (const char *)domain, name, a->category, payload);
    return 0;
}

static int pop(nvtxDomainHandle_t domain) {
    fprintf(out, "{\"event\": \"pop\", \"domain\": \"%s\"}\n", (const char *)domain);
    return 0;
}

static void finish(void) { fclose(out); }

int InitializeInjectionNvtx2(NvtxGetExportTableFunc_t get_table) {
    const NvtxExportTableCallbacks *callbacks = get_table(NVTX_ETID_CALLBACKS);
    NvtxFunctionTable table = NULL;
    unsigned int size = 0;
    const char *path = getenv("NVTX_RECORDER_OUT");
    if (!callbacks || !path || !(out = fopen(path, "w"))) return 0;
    if (!callbacks->GetModuleFunctionTable(NVTX_CB_MODULE_CORE2, &table, &size)) return 0;
    *table[NVTX_CBID_CORE2_DomainCreateA] = (NvtxFunctionPointer)domain_create;
    *table[NVTX_CBID_CORE2_DomainRegisterStringA] = (NvtxFunctionPointer)register_string;
    *table[NVTX_CBID_CORE2_DomainNameCategoryA] = (NvtxFunctionPointer)name_category;
    *table[NVTX_CBID_CORE2_DomainRangePushEx] = (NvtxFunctionPointer)push;
    *table[NVTX_CBID_CORE2_DomainRangePop] = (NvtxFunctionPointer)pop;
    atexit(finish);
    return 1;
}
