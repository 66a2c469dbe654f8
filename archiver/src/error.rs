//! The one error type: what failed, on what, who must act, and what to do next. Never holds document contents.

use std::error::Error as StdError;

use crate::fault::Fault;

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Who must act on an error; each kind has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The configuration or an argument is wrong: the operator corrects it.
    Invalid,
    /// A server or store can't be reached or refuses for now: trying again may help.
    Unavailable,
    /// MongoDB no longer has the events after the checkpoint: history has a gap that a human must know of.
    HistoryLost,
    /// Another writer took this source over: this process stops writing, and nothing is lost.
    Fenced,
    /// A plugin can't be loaded or failed: its author or the operator acts.
    Plugin,
    /// Stored data is not what was written: an investigation is due.
    Corrupt,
    /// What was asked for does not exist.
    NotFound,
    /// A bug in Archiver.
    Internal,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Invalid,
        Kind::Unavailable,
        Kind::HistoryLost,
        Kind::Fenced,
        Kind::Plugin,
        Kind::Corrupt,
        Kind::NotFound,
        Kind::Internal,
    ];

    /// The kind of this [`Kind::name`].
    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The process exit code of this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Internal => 1,
            Kind::Invalid => 10,
            Kind::Unavailable => 11,
            Kind::HistoryLost => 12,
            Kind::Fenced => 13,
            Kind::Plugin => 14,
            Kind::Corrupt => 15,
            Kind::NotFound => 16,
        }
    }

    /// Its name in stored documents and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Internal => "internal",
            Kind::Invalid => "invalid",
            Kind::Unavailable => "unavailable",
            Kind::HistoryLost => "historyLost",
            Kind::Fenced => "fenced",
            Kind::Plugin => "plugin",
            Kind::Corrupt => "corrupt",
            Kind::NotFound => "notFound",
        }
    }

    /// Whether trying again can't help: the stream stops until somebody acts.
    pub fn needs_a_human(self) -> bool {
        !matches!(self, Kind::Unavailable | Kind::Fenced | Kind::Internal)
    }
}

/// An error with its kind, a sentence, optionally a hint what to do next, and the cause underneath.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    kind: Kind,
    what: String,
    fault: Option<Fault>,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

macro_rules! constructors {
    ($($name:ident => $kind:ident),* $(,)?) => {
        $(
            #[doc = concat!("An error of kind [`Kind::", stringify!($kind), "`].")]
            pub fn $name(what: impl Into<String>) -> Self {
                Error::new(Kind::$kind, what)
            }
        )*
    };
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), fault: None, hint: None, source: None }
    }

    constructors! {
        invalid => Invalid,
        unavailable => Unavailable,
        history_lost => HistoryLost,
        fenced => Fenced,
        plugin => Plugin,
        corrupt => Corrupt,
        not_found => NotFound,
        internal => Internal,
    }

    /// Adds what the reader can do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause. Its text is shown, so it must not hold document contents; for MongoDB's errors use
    /// [`mongo_error`](crate::deployment::mongo_error).
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says what it means for whoever reads a change stream.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    /// What it means for whoever reads a change stream; `None` where it is not MongoDB's.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Who must act.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What to do next, where there is something to say.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The sentence with those of its causes, in one line.
    pub fn explain(&self) -> String {
        let mut text = self.what.clone();
        let mut last = self.what.clone();
        let mut cause = self.source();
        while let Some(error) = cause {
            let next = error.to_string();
            if next != last {
                text = format!("{text}: {next}");
            }
            last = next;
            cause = error.source();
        }
        text
    }
}
