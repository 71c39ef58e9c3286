/* A kernel divided among threads. They take one part after the other, so that whoever is late holds up nobody; between
   two kernels they look out for the next one for a while, and then sleep. */
#include <pthread.h>
#include <signal.h>

typedef void part(void *const *arguments, long first, long last);

enum { MOST = 256, SPINS = 2000 }; /* threads; looks before one sleeps, 20 to 100 µs */

static struct {
    pthread_mutex_t lock;        /* of what follows, but next and running are also read and counted without it */
    pthread_cond_t begun, ended; /* a job; the last of its parts */
    part *kernel;                /* what the job calls, with which arguments, on which parts */
    void *const *arguments;
    const long *bounds;
    long parts, next;            /* how many; the one to be taken next */
    long jobs;                   /* begun up to now */
    int threads, running;        /* waiting or at work; at work */
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .begun = PTHREAD_COND_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};

static pthread_mutex_t busy = PTHREAD_MUTEX_INITIALIZER; /* held by the one caller whose job it is */

static inline void rest(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void take_parts(void) {
    for (;;) {
        long i = __atomic_fetch_add(&pool.next, 1, __ATOMIC_RELAXED);
        if (i >= pool.parts) return;
        pool.kernel(pool.arguments, pool.bounds[i], pool.bounds[i + 1]);
    }
}

static void *work(void *begun) {
    long seen = (long)begun;
    for (;;) {
        for (int i = 0; i < SPINS && __atomic_load_n(&pool.jobs, __ATOMIC_RELAXED) == seen; i++) rest();
        pthread_mutex_lock(&pool.lock);
        while (pool.jobs == seen) pthread_cond_wait(&pool.begun, &pool.lock);
        seen = pool.jobs;
        int late = pool.parts == 0; /* the job has ended without this thread */
        if (!late) __atomic_add_fetch(&pool.running, 1, __ATOMIC_RELAXED);
        pthread_mutex_unlock(&pool.lock);
        if (late) continue;
        take_parts();
        pthread_mutex_lock(&pool.lock);
        if (__atomic_sub_fetch(&pool.running, 1, __ATOMIC_RELEASE) == 0) pthread_cond_signal(&pool.ended);
        pthread_mutex_unlock(&pool.lock);
    }
    return 0;
}

/* With the lock held: as many threads as are asked for, if the system has them. They leave signals to others. */
static void start(int threads) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (pthread_t thread; pool.threads < threads && pool.threads < MOST; pool.threads++) {
        if (pthread_create(&thread, 0, work, (void *)pool.jobs)) break;
        pthread_detach(thread);
    }
    pthread_sigmask(SIG_SETMASK, &before, 0);
}

/* A child of fork has none of these threads, and nobody in it would give back a lock. */
static void begin_anew(void) {
    pthread_mutex_init(&pool.lock, 0);
    pthread_mutex_init(&busy, 0);
    pthread_cond_init(&pool.begun, 0);
    pthread_cond_init(&pool.ended, 0);
    pool.threads = pool.running = 0;
    pool.parts = 0;
}

__attribute__((constructor)) static void when_loaded(void) { pthread_atfork(0, 0, begin_anew); }

/* Calls the kernel on every part, from bounds[i] to bounds[i + 1], with the help of so many other threads. Of two callers
   at once, one goes without help. */
void divide(part *kernel, void *const *arguments, const long *bounds, long parts, int helpers) {
    if (pthread_mutex_trylock(&busy)) {
        kernel(arguments, bounds[0], bounds[parts]);
        return;
    }
    pthread_mutex_lock(&pool.lock);
    start(helpers);
    pool.kernel = kernel, pool.arguments = arguments, pool.bounds = bounds, pool.parts = parts, pool.next = 0;
    __atomic_add_fetch(&pool.jobs, 1, __ATOMIC_RELAXED);
    pthread_cond_broadcast(&pool.begun);
    pthread_mutex_unlock(&pool.lock);
    take_parts();
    for (int i = 0; i < SPINS && __atomic_load_n(&pool.running, __ATOMIC_ACQUIRE); i++) rest();
    pthread_mutex_lock(&pool.lock);
    while (pool.running) pthread_cond_wait(&pool.ended, &pool.lock);
    pool.parts = 0;
    pthread_mutex_unlock(&pool.lock);
    pthread_mutex_unlock(&busy);
}
