/*
 * Single operators of libascendcl. operators.py puts CPU kernels in the place of torch_npu's at the dispatcher; what
 * torch_npu calls past the dispatcher, from its own C++ (inside collectives, for example), arrives here. The few that
 * do are computed, any other fails loudly: returning success would leave garbage in the result.
 */
#include <acl/acl.h>
#include <acl/acl_op_compiler.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "numbers.h"

#pragma GCC diagnostic ignored "-Wunused-parameter"

struct aclTensorDesc {
    aclDataType type;
    aclFormat format;
    int dimensions;
    int64_t size[8];
};

struct aclDataBuffer {
    void *data;
    size_t bytes;
};

static _Thread_local char message[256];

const char *aclGetRecentErrMsg(void) {
    return message;
}

aclTensorDesc *aclCreateTensorDesc(aclDataType dataType, int numDims, const int64_t *dims, aclFormat format) {
    aclTensorDesc *created = calloc(1, sizeof *created);
    if (created == NULL || numDims > 8) return NULL;
    *created = (aclTensorDesc){.type = dataType, .format = format, .dimensions = numDims};
    for (int i = 0; i < numDims; i++) created->size[i] = dims[i];
    return created;
}

void aclDestroyTensorDesc(const aclTensorDesc *desc) {
    free((void *)desc);
}

aclDataType aclGetTensorDescType(const aclTensorDesc *desc) {
    return desc->type;
}

aclFormat aclGetTensorDescFormat(const aclTensorDesc *desc) {
    return desc->format;
}

size_t aclGetTensorDescNumDims(const aclTensorDesc *desc) {
    return (size_t)desc->dimensions;
}

aclError aclGetTensorDescDimV2(const aclTensorDesc *desc, size_t index, int64_t *dimSize) {
    *dimSize = desc->size[index];
    return ACL_SUCCESS;
}

aclDataBuffer *aclCreateDataBuffer(void *data, size_t size) {
    aclDataBuffer *created = calloc(1, sizeof *created);
    if (created != NULL) *created = (aclDataBuffer){data, size};
    return created;
}

aclError aclDestroyDataBuffer(const aclDataBuffer *dataBuffer) {
    free((void *)dataBuffer);
    return ACL_SUCCESS;
}

static size_t size_of(aclDataType type) {
    switch (type) {
        case ACL_BOOL: case ACL_INT8: case ACL_UINT8: return 1;
        case ACL_INT16: case ACL_UINT16: case ACL_FLOAT16: case ACL_BF16: return 2;
        case ACL_INT32: case ACL_UINT32: case ACL_FLOAT: return 4;
        case ACL_INT64: case ACL_UINT64: case ACL_DOUBLE: return 8;
        default: return 0;
    }
}

static int64_t elements(const aclTensorDesc *desc) {
    int64_t number = 1;
    for (int i = 0; i < desc->dimensions; i++) number *= desc->size[i];
    return number;
}

static double load(aclDataType type, const void *data, int64_t i) {
    switch (type) {
        case ACL_BOOL: return ((const uint8_t *)data)[i] != 0;
        case ACL_INT8: return ((const int8_t *)data)[i];
        case ACL_UINT8: return ((const uint8_t *)data)[i];
        case ACL_INT16: return ((const int16_t *)data)[i];
        case ACL_INT32: return ((const int32_t *)data)[i];
        case ACL_INT64: return (double)((const int64_t *)data)[i]; /* exact up to 2^53 */
        case ACL_FLOAT16: return from_half(((const uint16_t *)data)[i]);
        case ACL_BF16: return from_bfloat16(((const uint16_t *)data)[i]);
        case ACL_FLOAT: return ((const float *)data)[i];
        default: return ((const double *)data)[i];
    }
}

static void store(aclDataType type, void *data, int64_t i, double value) {
    switch (type) {
        case ACL_BOOL: ((uint8_t *)data)[i] = value != 0; break;
        case ACL_INT8: ((int8_t *)data)[i] = (int8_t)(int64_t)value; break;
        case ACL_UINT8: ((uint8_t *)data)[i] = (uint8_t)(int64_t)value; break;
        case ACL_INT16: ((int16_t *)data)[i] = (int16_t)(int64_t)value; break;
        case ACL_INT32: ((int32_t *)data)[i] = (int32_t)(int64_t)value; break;
        case ACL_INT64: ((int64_t *)data)[i] = (int64_t)value; break;
        case ACL_FLOAT16: ((uint16_t *)data)[i] = to_half((float)value); break;
        case ACL_BF16: ((uint16_t *)data)[i] = to_bfloat16((float)value); break;
        case ACL_FLOAT: ((float *)data)[i] = (float)value; break;
        default: ((double *)data)[i] = value;
    }
}

static bool numeric(aclDataType type) {
    return size_of(type) != 0 && type != ACL_UINT16 && type != ACL_UINT32 && type != ACL_UINT64;
}

/* Copies `from` into `to`, `before[d]` further along each dimension d; both are dense. */
static void place(const aclTensorDesc *from_desc, const char *from, const aclTensorDesc *to_desc, char *to,
                  const int64_t *before) {
    size_t size = size_of(to_desc->type);
    for (int64_t i = 0, number = elements(from_desc); i < number; i++) {
        int64_t rest = i, target = 0, step = 1;
        for (int d = from_desc->dimensions - 1; d >= 0; d--) {
            target += (rest % from_desc->size[d] + before[d]) * step;
            rest /= from_desc->size[d];
            step *= to_desc->size[d];
        }
        memcpy(to + target * size, from + i * size, size);
    }
}

static void fill(const aclTensorDesc *desc, char *data, const void *value) {
    size_t size = size_of(desc->type);
    for (int64_t i = 0, number = elements(desc); i < number; i++) memcpy(data + i * size, value, size);
}

aclError aclopCompileAndExecute(const char *opType, int numInputs, const aclTensorDesc *const inputDesc[],
                                const aclDataBuffer *const inputs[], int numOutputs,
                                const aclTensorDesc *const outputDesc[], aclDataBuffer *const outputs[],
                                const aclopAttr *attr, aclopEngineType engineType, aclopCompileType compileFlag,
                                const char *opPath, aclrtStream stream) {
    const aclTensorDesc *to = outputDesc[0];
    bool known = numOutputs == 1 && numeric(to->type);
    if (known && numInputs == 2 && strcmp(opType, "Fill") == 0 && inputDesc[1]->type == to->type) {
        fill(to, outputs[0]->data, inputs[1]->data); /* inputs: a shape, a value */
        return ACL_SUCCESS;
    }
    if (known && numInputs == 1 && strcmp(opType, "Cast") == 0 && numeric(inputDesc[0]->type)) {
        for (int64_t i = 0, number = elements(to); i < number; i++)
            store(to->type, outputs[0]->data, i, load(inputDesc[0]->type, inputs[0]->data, i));
        return ACL_SUCCESS;
    }
    if (known && numInputs == 3 && strcmp(opType, "PadV3") == 0 && inputDesc[2]->type == to->type) {
        int64_t before[8]; /* inputs: a tensor, the elements before and after it for each dimension, a value */
        for (int d = 0; d < to->dimensions; d++)
            before[d] = (int64_t)load(inputDesc[1]->type, inputs[1]->data, 2 * (int64_t)d);
        fill(to, outputs[0]->data, inputs[2]->data);
        place(inputDesc[0], inputs[0]->data, to, outputs[0]->data, before);
        return ACL_SUCCESS;
    }
    snprintf(message, sizeof message, "simulated CANN: no operator %s", opType);
    return ACL_ERROR_OP_NOT_FOUND;
}

aclError aclopCompileAndExecuteV2(const char *opType, int numInputs, aclTensorDesc *inputDesc[],
                                  aclDataBuffer *inputs[], int numOutputs, aclTensorDesc *outputDesc[],
                                  aclDataBuffer *outputs[], aclopAttr *attr, aclopEngineType engineType,
                                  aclopCompileType compileFlag, const char *opPath, aclrtStream stream) {
    return aclopCompileAndExecute(opType, numInputs, (const aclTensorDesc *const *)inputDesc,
                                  (const aclDataBuffer *const *)inputs, numOutputs,
                                  (const aclTensorDesc *const *)outputDesc, outputs, attr, engineType, compileFlag,
                                  opPath, stream);
}
