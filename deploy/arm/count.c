/* A QEMU plugin: writes to standard error how many instructions all threads have executed, at every getsid() and at the
 * end. Programs never call getsid() by themselves, so they can mark with it where a stage begins and ends:
 *
 *     instructions 123456789 vector 2345678
 *
 * `vector` is those of floating point and SIMD, without loads and stores.
 */
#include <glib.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <qemu-plugin.h>

#define AARCH64_GETSID 156

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

static qemu_plugin_u64 all, vector;

static void print_counts(void)
{
    fprintf(stderr, "instructions %" PRIu64 " vector %" PRIu64 "\n", qemu_plugin_u64_sum(all),
            qemu_plugin_u64_sum(vector));
}

static bool is_vector(const struct qemu_plugin_insn *insn)
{
    uint32_t word = 0;
    qemu_plugin_insn_data(insn, &word, sizeof(word));
    return (word >> 25 & 0x7) == 0x7; /* data processing, scalar floating point and Advanced SIMD */
}

/* A block counts whole when it is entered; the few that an exception leaves early are neglected. */
static void translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t n = qemu_plugin_tb_n_insns(tb), n_vector = 0;
    for (size_t i = 0; i < n; i++) {
        n_vector += is_vector(qemu_plugin_tb_get_insn(tb, i));
    }
    qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(tb, QEMU_PLUGIN_INLINE_ADD_U64, all, n);
    qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(tb, QEMU_PLUGIN_INLINE_ADD_U64, vector, n_vector);
}

static void system_call(qemu_plugin_id_t id, unsigned int cpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3,
                        uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    if (number == AARCH64_GETSID) {
        print_counts();
    }
}

static void at_exit(qemu_plugin_id_t id, void *nothing)
{
    print_counts();
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv)
{
    if (strcmp(info->target_name, "aarch64")) {
        fprintf(stderr, "count: made for aarch64, not %s\n", info->target_name);
        return -1;
    }
    all = qemu_plugin_scoreboard_u64(qemu_plugin_scoreboard_new(sizeof(uint64_t)));
    vector = qemu_plugin_scoreboard_u64(qemu_plugin_scoreboard_new(sizeof(uint64_t)));
    qemu_plugin_register_vcpu_tb_trans_cb(id, translate);
    qemu_plugin_register_vcpu_syscall_cb(id, system_call);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
