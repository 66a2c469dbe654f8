//! Messages to the operator: the host's log in the sandbox, stderr natively. Never log values.

use std::fmt;

/// How much a message matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the plugin's author.
    Debug,
    /// Worth knowing.
    Info,
    /// May need attention.
    Warn,
    /// Needs attention.
    Error,
}

/// The longest message that is handed on, in bytes.
pub const MAX_BYTES: usize = 256;

/// Hands a message to the host, cut at [`MAX_BYTES`].
pub fn write(level: Level, message: fmt::Arguments<'_>) {
    let text = message.to_string();
    emit(level, cut(&text));
}

fn cut(text: &str) -> &str {
    let mut end = text.len().min(MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(target_arch = "wasm32")]
fn emit(level: Level, message: &str) {
    use crate::guest::bindings::archiver::plugin::host;
    let level = match level {
        Level::Debug => host::Level::Debug,
        Level::Info => host::Level::Info,
        Level::Warn => host::Level::Warn,
        Level::Error => host::Level::Error,
    };
    host::log(level, message);
}

#[cfg(not(target_arch = "wasm32"))]
fn emit(level: Level, message: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{level:?}: {message}");
}

/// Logs a formatted message: `log!(Warn, "{} rules never match", n)`.
#[macro_export]
macro_rules! log {
    ($level:ident, $($message:tt)+) => {
        $crate::log::write($crate::log::Level::$level, format_args!($($message)+))
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let text = "é".repeat(200);
        assert_eq!(cut(&text).len(), 256);
        assert_eq!(cut(&format!("x{text}")).len(), 255);
        assert_eq!(cut("short"), "short");
    }
}
