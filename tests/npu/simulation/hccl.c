/*
 * Collective communication (libhccl) between the processes of one machine, over one POSIX shared memory segment per
 * communicator. Each rank has a slot of CHUNK bytes in it, and each pair of ranks a mailbox for messages. Larger
 * tensors go through in pieces. A call returns when its work is done.
 *
 * The wheel's hccl.h is C++ only, so the few types that are needed are declared here.
 */
#include <errno.h>
#include <fcntl.h>
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "numbers.h"

enum { SUCCESS = 0, E_PARA = 1, E_MEMORY = 3, E_NOT_SUPPORT = 5, E_SYSCALL = 8, E_TIMEOUT = 9 };
enum { REDUCE_SUM, REDUCE_PROD, REDUCE_MAX, REDUCE_MIN };
enum { INT8, INT16, INT32, FP16, FP32, INT64, UINT64, UINT8, UINT16, UINT32, FP64, BFP16 };
enum { ROOT_INFO_BYTES = 4108, NAME_BYTES = 128 };

typedef int HcclResult;
typedef int HcclDataType;
typedef int HcclReduceOp;
typedef void *HcclComm;
typedef void *aclrtStream;

typedef struct {
    char internal[ROOT_INFO_BYTES];
} HcclRootInfo;

typedef struct {
    int sendRecvType; /* 0: send, 1: receive */
    void *buf;
    uint64_t count;
    HcclDataType dataType;
    uint32_t remoteRank;
} HcclSendRecvItem;

#define PREFIX "simulated_hccl_" /* then the process id of the root, and a random number */
static const size_t CHUNK = 1 << 20;   /* 8 ranks and the result: 9 MiB, of the 64 MiB that containers allow at least */
static const size_t LETTER = 64 << 10; /* a mailbox's content */

typedef struct {
    _Atomic uint32_t full;
    uint32_t bytes;
} Flag;

/* The beginning of a segment: then the result (CHUNK), the slots, the mailboxes' flags, their contents. */
typedef struct {
    _Atomic uint32_t joined;
    _Atomic uint32_t arrived;
    _Atomic uint32_t generation;
    char to_the_page[4096 - 3 * sizeof(uint32_t)];
} Shared;

typedef struct {
    Shared *shared;
    size_t bytes;
    uint32_t rank, ranks;
    char name[NAME_BYTES];
} Comm;

static char *result_of(Comm *comm) {
    return (char *)comm->shared + sizeof(Shared);
}

static char *slot_of(Comm *comm, uint32_t rank) {
    return result_of(comm) + (1 + (size_t)rank) * CHUNK;
}

static size_t pair(Comm *comm, uint32_t from, uint32_t to) {
    return (size_t)from * comm->ranks + to;
}

static Flag *flag_of(Comm *comm, uint32_t from, uint32_t to) {
    return (Flag *)slot_of(comm, comm->ranks) + pair(comm, from, to);
}

static char *letter_of(Comm *comm, uint32_t from, uint32_t to) {
    size_t pairs = (size_t)comm->ranks * comm->ranks;
    return slot_of(comm, comm->ranks) + pairs * sizeof(Flag) + pair(comm, from, to) * LETTER;
}

static size_t segment_bytes(uint32_t ranks) {
    size_t pairs = (size_t)ranks * ranks;
    return sizeof(Shared) + (1 + (size_t)ranks) * CHUNK + pairs * (sizeof(Flag) + LETTER);
}

static size_t size_of(HcclDataType type) {
    static const size_t sizes[] = {1, 2, 4, 2, 4, 8, 8, 1, 2, 4, 8, 2};
    return type >= INT8 && type <= BFP16 ? sizes[type] : 0;
}

/* ---- waiting ---- */

typedef struct {
    double until; /* seconds on the monotonic clock */
    unsigned turns;
} Patience;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* HCCL's own limits, by its own variables: 120 s to find each other, 1836 s for an operation. */
static Patience patience(const char *variable, long seconds) {
    const char *text = getenv(variable);
    long wanted = text != NULL ? strtol(text, NULL, 10) : 0;
    return (Patience){now() + (double)(wanted > 0 ? wanted : seconds), 0};
}

static Patience execution(void) {
    return patience("HCCL_EXEC_TIMEOUT", 1836);
}

/* Gives the core away, since there can be more ranks than cores; false when the time is over. */
static bool wait_a_little(Patience *patience) {
    if (++patience->turns < 100) {
        sched_yield();
        return true;
    }
    usleep(patience->turns < 1000 ? 50 : 500);
    return now() < patience->until;
}

static HcclResult barrier(Comm *comm) {
    Shared *shared = comm->shared;
    uint32_t generation = atomic_load(&shared->generation);
    if (atomic_fetch_add(&shared->arrived, 1) + 1 == comm->ranks) {
        atomic_store(&shared->arrived, 0);
        atomic_fetch_add(&shared->generation, 1);
        return SUCCESS;
    }
    Patience time = execution();
    while (atomic_load(&shared->generation) == generation)
        if (!wait_a_little(&time)) return E_TIMEOUT;
    return SUCCESS;
}

#define TRY(call)                             \
    do {                                      \
        HcclResult outcome = (call);          \
        if (outcome != SUCCESS) return outcome; \
    } while (0)

/* ---- numbers ---- */

#define SAME(x) (x)
#define COMBINE(TYPE, WIDE, READ, WRITE)                                                                      \
    for (uint64_t i = first; i < last; i++) {                                                                 \
        WIDE total = READ(((TYPE *)slot_of(comm, 0))[i]);                                                     \
        for (uint32_t rank = 1; rank < comm->ranks; rank++) {                                                 \
            WIDE other = READ(((TYPE *)slot_of(comm, rank))[i]);                                              \
            total = op == REDUCE_SUM    ? (WIDE)(total + other)                                               \
                    : op == REDUCE_PROD ? (WIDE)(total * other)                                               \
                    : op == REDUCE_MAX  ? (other > total || other != other ? other : total)                   \
                                        : (other < total || other != other ? other : total);                  \
        }                                                                                                     \
        ((TYPE *)result_of(comm))[i] = (TYPE)WRITE(total);                                                    \
    }

/* Combines the elements first..last-1 of all slots, in the order of the ranks: the same bits wherever it is done. */
static void combine(Comm *comm, uint64_t first, uint64_t last, HcclDataType type, HcclReduceOp op) {
    switch (type) {
        case INT8: COMBINE(int8_t, int8_t, SAME, SAME) break;
        case INT16: COMBINE(int16_t, int16_t, SAME, SAME) break;
        case INT32: COMBINE(int32_t, int32_t, SAME, SAME) break;
        case INT64: COMBINE(int64_t, int64_t, SAME, SAME) break;
        case FP32: COMBINE(float, float, SAME, SAME) break;
        case FP16: COMBINE(uint16_t, float, from_half, to_half) break;
        case BFP16: COMBINE(uint16_t, float, from_bfloat16, to_bfloat16) break;
        default: break;
    }
}

/* What the real one reduces: neither float64 nor unsigned integers. */
static bool reducible(HcclDataType type) {
    return (type >= INT8 && type <= INT64) || type == BFP16;
}

/* ---- communicators ---- */

/* Segments whose root is gone before everybody had joined; all others have no name any more. */
static void remove_leftovers(void) {
    DIR *folder = opendir("/dev/shm");
    if (folder == NULL) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        int root;
        if (sscanf(entry->d_name, PREFIX "%d_", &root) == 1 && kill(root, 0) != 0 && errno == ESRCH)
            shm_unlink(entry->d_name);
    }
    closedir(folder);
}

HcclResult HcclGetRootInfo(HcclRootInfo *rootInfo) {
    uint64_t number;
    remove_leftovers();
    if (getrandom(&number, sizeof number, 0) != sizeof number) return E_SYSCALL;
    memset(rootInfo, 0, sizeof *rootInfo);
    snprintf(rootInfo->internal, NAME_BYTES, PREFIX "%d_%016llx", (int)getpid(), (unsigned long long)number);
    return SUCCESS;
}

static HcclResult join(const char *name, uint32_t ranks, uint32_t rank, HcclComm *comm) {
    if (rank >= ranks || strncmp(name, PREFIX, strlen(PREFIX)) != 0) return E_PARA;
    size_t bytes = segment_bytes(ranks);
    int file = shm_open(name, O_CREAT | O_RDWR, 0600);
    if (file < 0) return E_SYSCALL;
    /* Whoever comes first makes it; the same size again changes nothing. Untouched pages take no memory. */
    void *memory = ftruncate(file, (off_t)bytes) == 0 ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
                                                      : MAP_FAILED;
    close(file);
    if (memory == MAP_FAILED) return E_MEMORY;
    Comm *created = calloc(1, sizeof *created);
    *created = (Comm){.shared = memory, .bytes = bytes, .rank = rank, .ranks = ranks};
    snprintf(created->name, NAME_BYTES, "%s", name);
    Patience time = patience("HCCL_CONNECT_TIMEOUT", 120);
    if (atomic_fetch_add(&created->shared->joined, 1) + 1 == ranks) shm_unlink(name);
    while (atomic_load(&created->shared->joined) < ranks)
        if (!wait_a_little(&time)) {
            shm_unlink(name);
            munmap(memory, bytes);
            free(created);
            return E_TIMEOUT;
        }
    *comm = created;
    return SUCCESS;
}

HcclResult HcclCommInitRootInfo(uint32_t nRanks, const HcclRootInfo *rootInfo, uint32_t rank, HcclComm *comm) {
    return join(rootInfo->internal, nRanks, rank, comm);
}

HcclResult HcclCommInitRootInfoConfig(uint32_t nRanks, const HcclRootInfo *rootInfo, uint32_t rank, const void *config,
                                      HcclComm *comm) {
    (void)config;
    return join(rootInfo->internal, nRanks, rank, comm);
}

HcclResult HcclCommDestroy(HcclComm handle) {
    Comm *comm = handle;
    if (comm == NULL) return E_PARA;
    munmap(comm->shared, comm->bytes);
    free(comm);
    return SUCCESS;
}

HcclResult HcclGetCommName(HcclComm comm, char *commName) {
    snprintf(commName, NAME_BYTES, "%s", ((Comm *)comm)->name);
    return SUCCESS;
}

HcclResult HcclGetRankSize(HcclComm comm, uint32_t *rankSize) {
    *rankSize = ((Comm *)comm)->ranks;
    return SUCCESS;
}

HcclResult HcclGetRankId(HcclComm comm, uint32_t *rank) {
    *rank = ((Comm *)comm)->rank;
    return SUCCESS;
}

HcclResult HcclGetCommAsyncError(HcclComm comm, HcclResult *asyncError) {
    (void)comm;
    *asyncError = SUCCESS;
    return SUCCESS;
}

static int settings[2]; /* deterministic, accelerator: neither makes a difference here */

HcclResult HcclSetConfig(int config, int value) {
    if (config < 0 || config >= 2) return E_PARA;
    settings[config] = value;
    return SUCCESS;
}

HcclResult HcclGetConfig(int config, int *value) {
    if (config < 0 || config >= 2) return E_PARA;
    *value = settings[config];
    return SUCCESS;
}

uint32_t HcclGetCommConfigCapability(void) {
    return 0; /* no optional feature: torch_npu then asks for none */
}

/* ---- collectives ---- */

/* Reduces count elements of everybody's `from`; ranks with a `to` receive the result. */
static HcclResult reduce(Comm *comm, const char *from, char *to, uint64_t count, HcclDataType type, HcclReduceOp op) {
    if (!reducible(type) || op < REDUCE_SUM || op > REDUCE_MIN) return E_NOT_SUPPORT;
    size_t size = size_of(type);
    uint64_t most = CHUNK / size;
    for (uint64_t done = 0; done < count; done += most) {
        uint64_t part = count - done < most ? count - done : most;
        memcpy(slot_of(comm, comm->rank), from + done * size, part * size);
        TRY(barrier(comm));
        combine(comm, part * comm->rank / comm->ranks, part * (comm->rank + 1) / comm->ranks, type, op);
        TRY(barrier(comm));
        /* The next piece's result waits for a barrier that this rank reaches after reading. */
        if (to != NULL) memcpy(to + done * size, result_of(comm), part * size);
    }
    return SUCCESS;
}

HcclResult HcclAllReduce(void *sendBuf, void *recvBuf, uint64_t count, HcclDataType dataType, HcclReduceOp op,
                         HcclComm comm, aclrtStream stream) {
    (void)stream;
    return reduce(comm, sendBuf, recvBuf, count, dataType, op);
}

HcclResult HcclReduce(void *sendBuf, void *recvBuf, uint64_t count, HcclDataType dataType, HcclReduceOp op,
                      uint32_t root, HcclComm handle, aclrtStream stream) {
    (void)stream;
    Comm *comm = handle;
    return reduce(comm, sendBuf, comm->rank == root ? recvBuf : NULL, count, dataType, op);
}

HcclResult HcclReduceScatter(void *sendBuf, void *recvBuf, uint64_t recvCount, HcclDataType dataType, HcclReduceOp op,
                             HcclComm handle, aclrtStream stream) {
    (void)stream;
    Comm *comm = handle;
    size_t bytes = recvCount * size_of(dataType);
    for (uint32_t rank = 0; rank < comm->ranks; rank++)
        TRY(reduce(comm, (char *)sendBuf + rank * bytes, rank == comm->rank ? recvBuf : NULL, recvCount, dataType, op));
    return SUCCESS;
}

HcclResult HcclBroadcast(void *buf, uint64_t count, HcclDataType dataType, uint32_t root, HcclComm handle,
                         aclrtStream stream) {
    (void)stream;
    Comm *comm = handle;
    size_t bytes = count * size_of(dataType);
    if (size_of(dataType) == 0 || root >= comm->ranks) return E_NOT_SUPPORT;
    for (size_t done = 0; done < bytes; done += CHUNK) {
        size_t part = bytes - done < CHUNK ? bytes - done : CHUNK;
        if (comm->rank == root) memcpy(slot_of(comm, root), (char *)buf + done, part);
        TRY(barrier(comm));
        if (comm->rank != root) memcpy((char *)buf + done, slot_of(comm, root), part);
        TRY(barrier(comm));
    }
    return SUCCESS;
}

HcclResult HcclAllGather(void *sendBuf, void *recvBuf, uint64_t sendCount, HcclDataType dataType, HcclComm handle,
                         aclrtStream stream) {
    (void)stream;
    Comm *comm = handle;
    size_t bytes = sendCount * size_of(dataType);
    if (size_of(dataType) == 0) return E_NOT_SUPPORT;
    for (size_t done = 0; done < bytes; done += CHUNK) {
        size_t part = bytes - done < CHUNK ? bytes - done : CHUNK;
        memcpy(slot_of(comm, comm->rank), (char *)sendBuf + done, part);
        TRY(barrier(comm));
        for (uint32_t rank = 0; rank < comm->ranks; rank++)
            memcpy((char *)recvBuf + rank * bytes + done, slot_of(comm, rank), part);
        TRY(barrier(comm));
    }
    return SUCCESS;
}

HcclResult HcclBarrier(HcclComm comm, aclrtStream stream) {
    (void)stream;
    return barrier(comm);
}

/* ---- messages ---- */

/* Moves the next piece of a message if the mailbox allows it; *done counts the bytes. */
static bool move(Comm *comm, HcclSendRecvItem *item, size_t *done) {
    size_t bytes = item->count * size_of(item->dataType);
    bool sends = item->sendRecvType == 0;
    uint32_t from = sends ? comm->rank : item->remoteRank, to = sends ? item->remoteRank : comm->rank;
    Flag *flag = flag_of(comm, from, to);
    if (*done >= bytes || atomic_load(&flag->full) == sends) return false;
    size_t part = bytes - *done < LETTER ? bytes - *done : LETTER;
    char *mine = (char *)item->buf + *done, *letter = letter_of(comm, from, to);
    memcpy(sends ? letter : mine, sends ? mine : letter, part);
    *done += part;
    atomic_store(&flag->full, sends);
    return true;
}

HcclResult HcclBatchSendRecv(HcclSendRecvItem *items, uint32_t itemNum, HcclComm handle, aclrtStream stream) {
    (void)stream;
    Comm *comm = handle;
    for (uint32_t i = 0; i < itemNum; i++)
        if (size_of(items[i].dataType) == 0 || items[i].remoteRank >= comm->ranks) return E_PARA;
    size_t *done = calloc(itemNum, sizeof *done);
    Patience time = execution();
    HcclResult outcome = SUCCESS;
    for (bool open = true; open && outcome == SUCCESS;) {
        bool moved = open = false;
        for (uint32_t i = 0; i < itemNum; i++) {
            bool ahead = false; /* messages between the same two ranks keep their order */
            for (uint32_t j = 0; j < i && !ahead; j++)
                ahead = items[j].remoteRank == items[i].remoteRank && items[j].sendRecvType == items[i].sendRecvType
                        && done[j] < items[j].count * size_of(items[j].dataType);
            if (!ahead && move(comm, &items[i], &done[i])) moved = true;
            if (done[i] < items[i].count * size_of(items[i].dataType)) open = true;
        }
        if (moved) time = execution();
        else if (open && !wait_a_little(&time)) outcome = E_TIMEOUT;
    }
    free(done);
    return outcome;
}

HcclResult HcclSend(void *sendBuf, uint64_t count, HcclDataType dataType, uint32_t destRank, HcclComm comm,
                    aclrtStream stream) {
    return HcclBatchSendRecv(&(HcclSendRecvItem){0, sendBuf, count, dataType, destRank}, 1, comm, stream);
}

HcclResult HcclRecv(void *recvBuf, uint64_t count, HcclDataType dataType, uint32_t srcRank, HcclComm comm,
                    aclrtStream stream) {
    return HcclBatchSendRecv(&(HcclSendRecvItem){1, recvBuf, count, dataType, srcRank}, 1, comm, stream);
}

HcclResult HcclScatter(void *sendBuf, void *recvBuf, uint64_t recvCount, HcclDataType dataType, uint32_t root,
                       HcclComm handle, aclrtStream stream) {
    Comm *comm = handle;
    if (comm->rank != root) return HcclRecv(recvBuf, recvCount, dataType, root, comm, stream);
    size_t bytes = recvCount * size_of(dataType);
    for (uint32_t rank = 0; rank < comm->ranks; rank++) {
        char *part = (char *)sendBuf + rank * bytes;
        if (rank == root) memmove(recvBuf, part, bytes);
        else TRY(HcclSend(part, recvCount, dataType, rank, comm, stream));
    }
    return SUCCESS;
}

HcclResult HcclAlltoAllV(const void *sendBuf, const void *sendCounts, const void *sdispls, HcclDataType sendType,
                         const void *recvBuf, const void *recvCounts, const void *rdispls, HcclDataType recvType,
                         HcclComm handle, aclrtStream stream) {
    Comm *comm = handle;
    const uint64_t *out = sendCounts, *out_at = sdispls, *in = recvCounts, *in_at = rdispls;
    size_t size = size_of(sendType);
    HcclSendRecvItem *items = calloc(2 * comm->ranks, sizeof *items);
    uint32_t number = 0;
    for (uint32_t rank = 0; rank < comm->ranks; rank++) {
        char *from = (char *)sendBuf + out_at[rank] * size, *to = (char *)recvBuf + in_at[rank] * size;
        if (rank == comm->rank) {
            memmove(to, from, out[rank] * size);
            continue;
        }
        items[number++] = (HcclSendRecvItem){0, from, out[rank], sendType, rank};
        items[number++] = (HcclSendRecvItem){1, to, in[rank], recvType, rank};
    }
    HcclResult outcome = HcclBatchSendRecv(items, number, comm, stream);
    free(items);
    return outcome;
}

HcclResult HcclAlltoAll(const void *sendBuf, uint64_t sendCount, HcclDataType sendType, const void *recvBuf,
                        uint64_t recvCount, HcclDataType recvType, HcclComm handle, aclrtStream stream) {
    uint32_t ranks = ((Comm *)handle)->ranks;
    uint64_t *counts = calloc(4 * ranks, sizeof *counts);
    for (uint32_t rank = 0; rank < ranks; rank++) {
        counts[rank] = sendCount, counts[ranks + rank] = rank * sendCount;
        counts[2 * ranks + rank] = recvCount, counts[3 * ranks + rank] = rank * recvCount;
    }
    HcclResult outcome = HcclAlltoAllV(sendBuf, counts, counts + ranks, sendType, recvBuf, counts + 2 * ranks,
                                       counts + 3 * ranks, recvType, handle, stream);
    free(counts);
    return outcome;
}
