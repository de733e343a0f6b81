#include "guard.hpp"
#include "weight.hpp"

#include "ggml-cpp.h"

#include <algorithm>
#include <cstdint>
#include <vector>

using namespace llama_shim;

namespace {

// Bounds under which no size of the graphs below overflows; no model comes near them.
constexpr int64_t MAX_EXTENT      = INT32_MAX; // also what a worker process is told
constexpr int64_t MAX_ELEMENTS    = int64_t(1) << 40;
constexpr int64_t MAX_HPARAM      = int64_t(1) << 20;
constexpr int64_t MAX_EXPERT_USED = int64_t(1) << 12;

// Tokens of the batch that the loader imagines, and sequences of recurrent layers.
constexpr int64_t N_TOKENS = 512;
constexpr int64_t N_SEQS   = 3;

// Room for the weight, the other operands of any operation, and its result; no data.
ggml_context_ptr weight_context() {
    ggml_init_params params = {16 * ggml_tensor_overhead(), nullptr, true};
    ggml_context_ptr ctx(ggml_init(params));
    if (!ctx) {
        throw std::bad_alloc();
    }
    return ctx;
}

// A weight that is only described. Refuses what ggml would abort on.
ggml_tensor * describe_weight(ggml_context * ctx, enum ggml_type type, const int64_t * ne) {
    require(type >= 0 && type < GGML_TYPE_COUNT, "there is no tensor type with this number");
    require(ggml_blck_size(type) > 0 && ggml_type_size(type) > 0, "this tensor type is not in use any more");
    int64_t n_elements = 1;
    for (int dim = 0; dim < GGML_MAX_DIMS; ++dim) {
        require(ne[dim] >= 1 && ne[dim] <= MAX_EXTENT, "an extent of the weight is out of range");
        require(ne[dim] <= MAX_ELEMENTS / n_elements, "the weight is too large");
        n_elements *= ne[dim];
    }
    require(ne[0] % ggml_blck_size(type) == 0, "a row of the weight is not a whole number of blocks of its type");
    return ggml_new_tensor(ctx, type, GGML_MAX_DIMS, ne);
}

int64_t known(int64_t hparam, int64_t max, const char * text) {
    require(hparam >= 1 && hparam <= max, text);
    return hparam;
}

// The operation as the loader imagines it: with the weight `w`, and activations of a
// batch. ggml's own checks on the shapes come first, as they abort.
ggml_tensor * imagine(
        ggml_context * ctx, enum ggml_op op, ggml_tensor * w, const llama_shim_weight_hparams & hparams) {
    const bool is_vector = w->ne[1] == 1 && w->ne[2] == 1 && w->ne[3] == 1;
    const bool is_matrix = w->ne[2] == 1 && w->ne[3] == 1;
    const auto f32 = [&](int64_t ne0, int64_t ne1 = 1, int64_t ne2 = 1, int64_t ne3 = 1) {
        return ggml_new_tensor_4d(ctx, GGML_TYPE_F32, ne0, ne1, ne2, ne3);
    };
    const auto i32 = [&](int64_t ne0, int64_t ne1 = 1) {
        return ggml_new_tensor_2d(ctx, GGML_TYPE_I32, ne0, ne1);
    };
    const auto n_expert_used = [&] {
        return known(hparams.n_expert_used, MAX_EXPERT_USED, "the number of experts used per token is out of range");
    };

    switch (op) {
        case GGML_OP_GET_ROWS:
            require(is_matrix, "rows are taken from a matrix only");
            return ggml_get_rows(ctx, w, i32(N_TOKENS));
        case GGML_OP_SET_ROWS:
            // The weight says which rows.
            require(is_vector, "the numbers of rows are a vector");
            require(w->type == GGML_TYPE_I64 || w->type == GGML_TYPE_I32, "the numbers of rows are whole");
            return ggml_set_rows(ctx, f32(1, w->ne[0]), f32(1, w->ne[0]), w);
        case GGML_OP_MUL_MAT:
            return ggml_mul_mat(ctx, w, f32(w->ne[0], N_TOKENS, w->ne[2], w->ne[3]));
        case GGML_OP_MUL_MAT_ID: {
            require(w->ne[3] == 1, "experts are one matrix each");
            const int64_t n_used = n_expert_used();
            return ggml_mul_mat_id(ctx, w, f32(w->ne[0], n_used, N_TOKENS), i32(n_used, N_TOKENS));
        }
        case GGML_OP_ADD:
            return ggml_add(ctx, f32(w->ne[0], w->ne[1], w->ne[2], w->ne[3]), w);
        case GGML_OP_ADD_ID: {
            const int64_t n_used = n_expert_used();
            return ggml_add_id(ctx, f32(w->ne[0], n_used, N_TOKENS), w, i32(n_used, N_TOKENS));
        }
        case GGML_OP_MUL:
            return ggml_mul(ctx, f32(w->ne[0], w->ne[1], w->ne[2], w->ne[3]), w);
        case GGML_OP_DIV:
            require(is_vector, "a divisor is a vector");
            return ggml_div(ctx, f32(w->ne[0]), w);
        case GGML_OP_SCALE:
            return ggml_scale(ctx, w, 1.0f);
        case GGML_OP_ROPE: {
            require(w->type == GGML_TYPE_F32, "frequency factors are of type F32");
            const int64_t n_embd_head = known(hparams.n_embd_head, MAX_HPARAM, "the size of a head is out of range");
            const int64_t n_head      = known(hparams.n_head, MAX_HPARAM, "the number of heads is out of range");
            return ggml_rope_ext(
                ctx, f32(n_embd_head, n_head, N_TOKENS), i32(N_TOKENS), w, 0, 0, 0, 0, 0, 0, 0, 0, 0);
        }
        case GGML_OP_SSM_CONV:
            require(is_matrix, "the weights of a convolution over a state are a matrix");
            return ggml_ssm_conv(ctx, f32(w->ne[0] - 1 + N_TOKENS, w->ne[1], N_SEQS), w);
        case GGML_OP_SSM_SCAN: {
            require(is_matrix, "the decay of a state is a matrix");
            const int64_t d_state = known(
                w->ne[0] == 1 ? hparams.ssm_d_state : w->ne[0], MAX_HPARAM, "the size of a state is out of range");
            const int64_t n_head  = known(w->ne[1], MAX_HPARAM, "the number of heads of a state is out of range");
            const int64_t d_inner = known(hparams.ssm_d_inner, MAX_HPARAM, "the inner size of a state is out of range");
            require(n_head <= d_inner, "a state has more heads than its inner size");
            require(hparams.ssm_n_group >= 0 && hparams.ssm_n_group <= MAX_HPARAM,
                    "the number of groups of a state is out of range");
            const int64_t n_group  = std::max<int64_t>(hparams.ssm_n_group, 1);
            const int64_t head_dim = d_inner / n_head;
            return ggml_ssm_scan(
                ctx,
                f32(d_state, head_dim, n_head, N_SEQS),
                f32(head_dim, n_head, N_TOKENS, N_SEQS),
                f32(n_head, N_TOKENS, N_SEQS),
                w,
                f32(d_state, n_group, N_TOKENS, N_SEQS),
                f32(d_state, n_group, N_TOKENS, N_SEQS),
                i32(N_SEQS),
                1);
        }
        case GGML_OP_RWKV_WKV6: {
            // The loader's sizes, which have nothing to do with the model.
            const int64_t n = 123;
            return ggml_rwkv_wkv6(ctx, f32(n, n, n), f32(n, n, n), f32(n, n, n), w, f32(n, n, n), f32(n, n, n, n));
        }
        case GGML_OP_IM2COL: {
            const int64_t n_embd_inp = known(hparams.n_embd_inp, MAX_HPARAM, "the input size is out of range");
            require(w->ne[0] <= n_embd_inp, "the kernel of a convolution is longer than its input");
            return ggml_im2col(ctx, w, f32(n_embd_inp, w->ne[1]), 1, 0, 0, 0, 1, 0, false, GGML_TYPE_F16);
        }
        default:
            refuse(std::string("llama.cpp has no weights for the operation ") +
                   (op >= 0 && op < GGML_OP_COUNT ? ggml_op_name(op) : "with this number"));
    }
}

void hand_out(
        const std::vector<llama_shim_weight_place> & places, llama_shim_weight_place * list, size_t capacity, size_t * n) {
    std::copy_n(places.begin(), std::min(capacity, places.size()), list);
    *n = places.size();
}

void add_extra_places(std::vector<llama_shim_weight_place> & places, ggml_backend_dev_t dev) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);
    if (reg == nullptr) {
        return;
    }
    const auto get_extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts"));
    if (get_extra == nullptr) {
        return;
    }
    for (ggml_backend_buffer_type_t * buft = get_extra(dev); buft != nullptr && *buft != nullptr; ++buft) {
        places.push_back({dev, *buft});
    }
}

// The buffer type that spreads the rows of a matrix over the devices of a backend.
ggml_backend_buffer_type_t split_buffer_type(ggml_backend_dev_t dev, const float * tensor_split) {
    ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);
    const auto get_split = reg == nullptr ? nullptr : reinterpret_cast<ggml_backend_split_buffer_type_t>(
        ggml_backend_reg_get_proc_address(reg, "ggml_backend_split_buffer_type"));
    require(get_split != nullptr, "the device cannot split tensors by rows");
    for (size_t index = 0; index < ggml_backend_reg_dev_count(reg); ++index) {
        if (ggml_backend_reg_dev_get(reg, index) == dev) {
            return get_split(static_cast<int>(index), tensor_split);
        }
    }
    refuse("the device is not one of its backend's");
}

} // namespace

enum llama_shim_status llama_shim_weight_size(
        ggml_backend_buffer_type_t buft,
        enum ggml_type type,
        const int64_t * ne,
        size_t * size,
        char ** error) noexcept {
    if (size != nullptr) {
        *size = 0;
    }
    return guard(error, [&] {
        require(buft != nullptr && ne != nullptr && size != nullptr, "an argument is NULL");
        const ggml_context_ptr ctx = weight_context();
        const ggml_tensor * weight = describe_weight(ctx.get(), type, ne);
        *size = GGML_PAD(ggml_backend_buft_get_alloc_size(buft, weight), ggml_backend_buft_get_alignment(buft));
    });
}

enum llama_shim_status llama_shim_weight_supported(
        ggml_backend_dev_t dev,
        ggml_backend_buffer_type_t buft,
        enum ggml_op op,
        enum ggml_type type,
        const int64_t * ne,
        const struct llama_shim_weight_hparams * hparams,
        bool * supported,
        char ** error) noexcept {
    if (supported != nullptr) {
        *supported = false;
    }
    return guard(error, [&] {
        require(dev != nullptr && buft != nullptr && ne != nullptr && hparams != nullptr && supported != nullptr,
                "an argument is NULL");
        const ggml_context_ptr ctx = weight_context();
        ggml_tensor * weight = describe_weight(ctx.get(), type, ne);
        const ggml_tensor * node = imagine(ctx.get(), op, weight, *hparams);
        // Empty: it only says in which buffer type the weight would be.
        const ggml_backend_buffer_ptr buffer(ggml_backend_buft_alloc_buffer(buft, 0));
        weight->buffer = buffer.get();
        *supported = ggml_backend_dev_supports_op(dev, node);
    });
}

enum llama_shim_status llama_shim_weight_places_cpu(
        const ggml_backend_dev_t * devices,
        size_t n_devices,
        bool no_host,
        bool use_extra_bufts,
        struct llama_shim_weight_place * list,
        size_t capacity,
        size_t * n,
        char ** error) noexcept {
    if (n != nullptr) {
        *n = 0;
    }
    return guard(error, [&] {
        require(n != nullptr && (devices != nullptr || n_devices == 0) && (list != nullptr || capacity == 0),
                "an argument is NULL");
        require(std::find(devices, devices + n_devices, nullptr) == devices + n_devices, "a device is NULL");
        ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
        if (cpu == nullptr) {
            fail("there is no CPU backend");
        }
        std::vector<llama_shim_weight_place> places;
        const auto add_all = [&](enum ggml_backend_dev_type type, bool also_plain) {
            for (size_t index = 0; index < ggml_backend_dev_count(); ++index) {
                ggml_backend_dev_t dev = ggml_backend_dev_get(index);
                if (ggml_backend_dev_type(dev) == type) {
                    ggml_backend_buffer_type_t buft = ggml_backend_dev_buffer_type(dev);
                    if (also_plain || buft != ggml_backend_cpu_buffer_type()) {
                        places.push_back({dev, buft});
                    }
                }
            }
        };
        add_all(GGML_BACKEND_DEVICE_TYPE_ACCEL, false);
        if (!no_host) {
            for (size_t index = 0; index < n_devices; ++index) {
                ggml_backend_buffer_type_t buft = ggml_backend_dev_host_buffer_type(devices[index]);
                if (buft != nullptr) {
                    places.push_back({devices[index], buft});
                    break;
                }
            }
        }
        if (use_extra_bufts) {
            add_extra_places(places, cpu);
        }
        add_all(GGML_BACKEND_DEVICE_TYPE_CPU, true);
        hand_out(places, list, capacity, n);
    });
}

enum llama_shim_status llama_shim_weight_places_device(
        ggml_backend_dev_t dev,
        bool split_rows,
        const float * tensor_split,
        struct llama_shim_weight_place * list,
        size_t capacity,
        size_t * n,
        char ** error) noexcept {
    if (n != nullptr) {
        *n = 0;
    }
    return guard(error, [&] {
        require(dev != nullptr && n != nullptr && (list != nullptr || capacity == 0), "an argument is NULL");
        std::vector<llama_shim_weight_place> places;
        if (split_rows) {
            ggml_backend_buffer_type_t buft = split_buffer_type(dev, tensor_split);
            if (buft != nullptr) {
                places.push_back({dev, buft});
            }
        }
        places.push_back({dev, ggml_backend_dev_buffer_type(dev)});
        add_extra_places(places, dev);
        hand_out(places, list, capacity, n);
    });
}

enum llama_shim_status llama_shim_weight_find(
        const char * arch, const char * name, struct llama_shim_weight_use * use, char ** error) noexcept {
    if (use != nullptr) {
        *use = {LLAMA_SHIM_WEIGHT_UNKNOWN, GGML_OP_NONE, -1};
    }
    return guard(error, [&] {
        require(arch != nullptr && name != nullptr && use != nullptr, "an argument is NULL");
#ifndef LLAMA_SHIM_NO_INTERNALS
        *use = use_of(arch, name);
#else
        no_internals();
#endif
    });
}
