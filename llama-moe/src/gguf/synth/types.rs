//! Types of tensors (`ggml_type`): how many bytes they take, and how a block of random bits
//! is made one of sane values.

/// A type that weights can be drawn in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq4Nl,
    Iq4Xs,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq1S,
    Mxfp4,
}

/// What stands in a block besides quants and the scales of its parts, in both of which any
/// bits are valid.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scale {
    /// The elements are numbers themselves.
    None,
    /// A half at this byte. Where it is 1, elements have about this standard deviation.
    Half { at: usize, spread: f32 },
    /// As `Half`, and another half at the byte `at + 2`: so many times the first, with this
    /// sign, makes the mean of the elements zero.
    HalfAndOffset { at: usize, spread: f32, offset: f32 },
    /// The exponent of a power of two in the first byte, plus 127.
    Exponent { spread: f32 },
}

/// The layout of a block.
pub(super) struct Block {
    /// The type's number in a file.
    pub(super) id: u32,
    pub(super) elements: u64,
    pub(super) bytes: u64,
    pub(super) scale: Scale,
}

impl TensorType {
    pub(super) const ALL: [Self; 22] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Iq2Xxs,
        Self::Iq2Xs,
        Self::Iq2S,
        Self::Iq3Xxs,
        Self::Iq3S,
        Self::Iq1S,
        Self::Mxfp4,
    ];

    /// The type with this number in a file, if weights can be drawn in it.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.block().id == id)
    }

    /// The layout, as ggml's `ggml-common.h` has it.
    pub(super) fn block(self) -> Block {
        let block = |id, elements, bytes, scale| Block {
            id,
            elements,
            bytes,
            scale,
        };
        let half = |at, spread| Scale::Half { at, spread };
        let both = |at, spread, offset| Scale::HalfAndOffset { at, spread, offset };
        match self {
            Self::F32 => block(0, 1, 4, Scale::None),
            Self::F16 => block(1, 1, 2, Scale::None),
            Self::Bf16 => block(30, 1, 2, Scale::None),
            Self::Q4_0 => block(2, 32, 18, half(0, 4.6)),
            Self::Q4_1 => block(3, 32, 20, both(0, 4.6, -7.5)),
            Self::Q5_0 => block(6, 32, 22, half(0, 9.2)),
            Self::Q5_1 => block(7, 32, 24, both(0, 9.2, -15.5)),
            Self::Q8_0 => block(8, 32, 34, half(0, 74.0)),
            // Scales and offsets of a block's parts are drawn apart, so both spread the
            // elements: 4 bits each here, 6 bits in the two types below.
            Self::Q2K => block(10, 256, 84, both(80, 13.5, 1.5)),
            Self::Q3K => block(11, 256, 110, half(108, 42.5)),
            Self::Q4K => block(12, 256, 144, both(0, 258.0, 7.5)),
            Self::Q5K => block(13, 256, 176, both(0, 523.0, 15.5)),
            Self::Q6K => block(14, 256, 210, half(208, 1366.0)),
            Self::Iq4Nl => block(20, 32, 18, half(0, 67.5)),
            Self::Iq4Xs => block(23, 256, 136, half(0, 1254.0)),
            Self::Iq2Xxs => block(16, 256, 66, half(0, 53.3)),
            Self::Iq2Xs => block(17, 256, 74, half(0, 55.5)),
            Self::Iq2S => block(22, 256, 82, half(0, 56.1)),
            Self::Iq3Xxs => block(18, 256, 98, half(0, 143.0)),
            Self::Iq3S => block(21, 256, 110, half(0, 138.0)),
            Self::Iq1S => block(19, 256, 50, half(0, 7.3)),
            Self::Mxfp4 => block(39, 32, 17, Scale::Exponent { spread: 2.93 }),
        }
    }

    /// Bytes of a tensor of this shape, whose row is a whole number of blocks.
    pub(super) fn bytes(self, shape: &[u64]) -> u64 {
        let block = self.block();
        let elements: u64 = shape.iter().product();
        elements / block.elements * block.bytes
    }
}
