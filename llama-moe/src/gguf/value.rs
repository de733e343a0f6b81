//! Values of a GGUF header's metadata.

use std::fmt;

/// A value of a GGUF header, in the type that the file has it in (`enum gguf_type`).
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(untagged))]
#[non_exhaustive]
pub enum Value {
    /// A whole number of 8 bits, not negative.
    U8(u8),
    /// A whole number of 8 bits.
    I8(i8),
    /// A whole number of 16 bits, not negative.
    U16(u16),
    /// A whole number of 16 bits.
    I16(i16),
    /// A whole number of 32 bits, not negative.
    U32(u32),
    /// A whole number of 32 bits.
    I32(i32),
    /// A whole number of 64 bits, not negative.
    U64(u64),
    /// A whole number of 64 bits.
    I64(i64),
    /// A real number of 32 bits.
    F32(f32),
    /// A real number of 64 bits.
    F64(f64),
    /// True or false.
    Bool(bool),
    /// A text, up to its first NUL. Bytes that are no UTF-8 are U+FFFD here.
    Text(String),
    /// Values of one type.
    Array(Vec<Value>),
}

impl Value {
    /// GGUF's name of the type: `u32`, `str`, `arr` (`gguf_type_name`).
    #[must_use]
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "u8",
            Self::I8(_) => "i8",
            Self::U16(_) => "u16",
            Self::I16(_) => "i16",
            Self::U32(_) => "u32",
            Self::I32(_) => "i32",
            Self::U64(_) => "u64",
            Self::I64(_) => "i64",
            Self::F32(_) => "f32",
            Self::F64(_) => "f64",
            Self::Bool(_) => "bool",
            Self::Text(_) => "str",
            Self::Array(_) => "arr",
        }
    }

    /// The number, if it is a whole one and not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::U8(number) => Some(number.into()),
            Self::U16(number) => Some(number.into()),
            Self::U32(number) => Some(number.into()),
            Self::U64(number) => Some(number),
            Self::I8(number) => number.try_into().ok(),
            Self::I16(number) => number.try_into().ok(),
            Self::I32(number) => number.try_into().ok(),
            Self::I64(number) => number.try_into().ok(),
            _ => None,
        }
    }

    /// The number, whole or not, as closely as 64 bits hold it.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::F32(number) => Some(number.into()),
            Self::F64(number) => Some(number),
            Self::I8(number) => Some(number.into()),
            Self::I16(number) => Some(number.into()),
            Self::I32(number) => Some(number.into()),
            Self::I64(number) => Some(number as f64),
            _ => self.as_u64().map(|number| number as f64),
        }
    }

    /// The truth value.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The values of an array; of anything else, the value itself. Some hyper-parameters are
    /// one number in most models, and one for each layer in others.
    #[must_use]
    pub fn elements(&self) -> &[Value] {
        match self {
            Self::Array(values) => values,
            single => std::slice::from_ref(single),
        }
    }
}

/// Texts as they are, the values of an array between brackets.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::U8(number) => number.fmt(f),
            Self::I8(number) => number.fmt(f),
            Self::U16(number) => number.fmt(f),
            Self::I16(number) => number.fmt(f),
            Self::U32(number) => number.fmt(f),
            Self::I32(number) => number.fmt(f),
            Self::U64(number) => number.fmt(f),
            Self::I64(number) => number.fmt(f),
            Self::F32(number) => number.fmt(f),
            Self::F64(number) => number.fmt(f),
            Self::Bool(value) => value.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::Array(values) => {
                f.write_str("[")?;
                for (index, value) in values.iter().enumerate() {
                    let separator = if index == 0 { "" } else { ", " };
                    write!(f, "{separator}{value}")?;
                }
                f.write_str("]")
            }
        }
    }
}
