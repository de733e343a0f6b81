//! What ggml makes of a block of weights, for the tests of our own writing of them.

use llama_sys as sys;

/// Elements and bytes of one block of a type that ggml has.
pub(crate) fn block(type_id: u32) -> (u64, u64) {
    assert!(type_id < sys::GGML_TYPE_COUNT, "{type_id}");
    // SAFETY: a type that ggml has, as was checked.
    let elements = unsafe { sys::ggml_blck_size(type_id) };
    // SAFETY: as above.
    let bytes = unsafe { sys::ggml_type_size(type_id) };
    (elements as u64, bytes as u64)
}

/// The numbers that whole blocks of a type stand for.
pub(crate) fn dequantise(type_id: u32, bytes: &[u8]) -> Vec<f32> {
    let (elements, size) = block(type_id);
    let blocks = bytes.len() as u64 / size;
    assert_eq!(blocks * size, bytes.len() as u64, "whole blocks");
    let n = (blocks * elements) as usize;
    let mut numbers = vec![0f32; n];
    // SAFETY: a type that ggml has, as was checked; the table is static.
    let traits = unsafe { &*sys::ggml_get_type_traits(type_id) };
    let to_float = traits.to_float.expect("a type with a way back");
    // Blocks hold 16-bit numbers.
    let mut aligned = vec![0u64; bytes.len().div_ceil(8)];
    let target = aligned.as_mut_ptr().cast::<u8>();
    // SAFETY: the target has room for the bytes, and is another allocation.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
    // SAFETY: whole blocks, aligned, and room for as many numbers as they stand for.
    unsafe { to_float(target.cast(), numbers.as_mut_ptr(), n as i64) };
    numbers
}
