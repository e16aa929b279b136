//! What crosses the C border: borrowed strings in, owned buffers out, panics never.

use std::any::Any;
use std::panic::{catch_unwind, AssertUnwindSafe};

/// Why a call did not succeed; the numbers are bridge.h's NIBBLE_BRIDGE_*.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Invalid = 1,
    Unimplemented = 2,
    Exhausted = 3,
    Internal = 4,
}

#[derive(Debug)]
pub struct Failure {
    pub code: Code,
    pub reason: String,
}

pub type Outcome<T> = Result<T, Failure>;

impl Failure {
    pub fn new(code: Code, reason: impl Into<String>) -> Self {
        Failure { code, reason: reason.into() }
    }
    pub fn invalid(reason: impl Into<String>) -> Self {
        Failure::new(Code::Invalid, reason)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Str {
    data: *const u8,
    size: usize,
}

impl Str {
    /// # Safety
    /// `data` must be readable for `size` bytes for as long as the result is used.
    pub unsafe fn bytes<'a>(self) -> &'a [u8] {
        slice(self.data, self.size)
    }

    /// The text, or an error that says what it is (`subject`) and where it stops being UTF-8.
    ///
    /// # Safety
    /// As `bytes`.
    pub unsafe fn text<'a>(self, subject: &str) -> Outcome<&'a str> {
        std::str::from_utf8(self.bytes()).map_err(|error| {
            Failure::invalid(format!("{subject} is not UTF-8 at byte {}", error.valid_up_to()))
        })
    }
}

/// # Safety
/// `data` must be readable for `size` elements; it may be null when `size` is 0.
pub unsafe fn slice<'a, T>(data: *const T, size: usize) -> &'a [T] {
    if size == 0 {
        return &[];
    }
    std::slice::from_raw_parts(data, size)
}

#[repr(C)]
pub struct Buffer<T> {
    data: *mut T,
    size: usize,
    capacity: usize,
}

impl<T> From<Vec<T>> for Buffer<T> {
    fn from(vec: Vec<T>) -> Self {
        let mut vec = std::mem::ManuallyDrop::new(vec);
        Buffer { data: vec.as_mut_ptr(), size: vec.len(), capacity: vec.capacity() }
    }
}

impl<T> Buffer<T> {
    /// # Safety
    /// `buffer` is null, zeroed, or was filled by this bridge and not freed since.
    pub unsafe fn free(buffer: *mut Buffer<T>) {
        if let Some(buffer) = buffer.as_mut() {
            if !buffer.data.is_null() {
                drop(Vec::from_raw_parts(buffer.data, buffer.size, buffer.capacity));
            }
            *buffer = Buffer { data: std::ptr::null_mut(), size: 0, capacity: 0 };
        }
    }
}

/// Runs `body`; its failure or panic becomes a code and a reason in `error`.
///
/// # Safety
/// `error` must be writable.
pub unsafe fn run(error: *mut Buffer<u8>, body: impl FnOnce() -> Outcome<()>) -> i32 {
    let outcome = catch_unwind(AssertUnwindSafe(body))
        .unwrap_or_else(|panic| Err(Failure::new(Code::Internal, panic_text(panic.as_ref()))));
    match outcome {
        Ok(()) => {
            error.write(Vec::new().into());
            0
        }
        Err(failure) => {
            error.write(failure.reason.into_bytes().into());
            failure.code as i32
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("text bridge panicked: {}", text.unwrap_or_else(|| "no text".into()))
}
