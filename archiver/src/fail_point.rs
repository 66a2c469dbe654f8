//! Named places, one at every ordered write, at which tests end the process, fail, or wait. They are there with the feature
//! `failpoints` only, which nothing but the end-to-end tests switches on; without it [`fail_point!`] is nothing.
//!
//! `ARCHIVER_FAIL_POINTS="append:committed=exit; object:put=error@2; lease:taken=sleep(500)"` says what happens, once each,
//! when a place is reached for the first, or the named, time.

/// A place where the process can be made to end, fail with an error of kind Unavailable, or wait. For async functions that
/// return this crate's [`Result`](crate::Result).
macro_rules! fail_point {
    ($name:literal) => {{
        #[cfg(feature = "failpoints")]
        $crate::fail_point::reach($name).await?;
    }};
}
pub(crate) use fail_point;

#[cfg(feature = "failpoints")]
pub(crate) use active::reach;

#[cfg(feature = "failpoints")]
mod active {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use crate::error::{Error, Result};

    #[derive(Debug, PartialEq)]
    enum Action {
        /// At once, as kill -9 does: nothing is flushed or dropped.
        Exit,
        Error,
        Sleep(Duration),
    }

    #[derive(Debug)]
    struct Point {
        name: String,
        action: Action,
        at: u64,
        reached: AtomicU64,
    }

    fn points() -> &'static [Point] {
        static POINTS: OnceLock<Vec<Point>> = OnceLock::new();
        POINTS.get_or_init(|| {
            let text = std::env::var("ARCHIVER_FAIL_POINTS").unwrap_or_default();
            text.split(';').map(str::trim).filter(|part| !part.is_empty()).filter_map(parse).collect()
        })
    }

    fn parse(part: &str) -> Option<Point> {
        let (name, action) = part.split_once('=')?;
        let (action, at) = action.split_once('@').unwrap_or((action, "1"));
        let action = match action {
            "exit" => Action::Exit,
            "error" => Action::Error,
            sleep => {
                let millis = sleep.strip_prefix("sleep(")?.strip_suffix(')')?;
                Action::Sleep(Duration::from_millis(millis.parse().ok()?))
            }
        };
        Some(Point { name: name.to_owned(), action, at: at.parse().ok()?, reached: AtomicU64::new(0) })
    }

    /// Does what the environment wants at this place.
    pub(crate) async fn reach(name: &str) -> Result<()> {
        for point in points().iter().filter(|point| point.name == name) {
            if point.reached.fetch_add(1, Ordering::SeqCst) + 1 != point.at {
                continue;
            }
            tracing::warn!(name, action = ?point.action, "fail point");
            match point.action {
                Action::Exit => std::process::abort(),
                Action::Error => return Err(Error::unavailable(format!("fail point {name}"))),
                Action::Sleep(time) => tokio::time::sleep(time).await,
            }
        }
        Ok(())
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn actions_are_read_with_the_time_at_which_they_happen() {
            let point = parse("append:committed=exit").unwrap();
            assert_eq!((point.name.as_str(), point.action, point.at), ("append:committed", Action::Exit, 1));
            let point = parse("object:put=sleep(20)@3").unwrap();
            assert_eq!((point.action, point.at), (Action::Sleep(Duration::from_millis(20)), 3));
            assert!(parse("object:put=nonsense").is_none());
        }
    }
}
