//! How fast a replay goes: as history did, some times faster, or as fast as it can.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// How many times faster than history; `None`: as fast as can be.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Speed(Option<f64>);

impl Speed {
    /// Reads `1x`, `0.5x`, `10x`, `max`.
    pub fn parse(text: &str) -> Result<Speed> {
        let factor = || text.strip_suffix('x')?.parse::<f64>().ok().filter(|f| f.is_finite() && *f > 0.0);
        match text {
            "max" => Ok(Speed(None)),
            _ => factor().map(|factor| Speed(Some(factor))).ok_or_else(|| {
                Error::invalid(format!("--speed is neither max nor a number with an x: {text:?}"))
                    .hint("1x is as fast as it happened, 10x ten times faster")
            }),
        }
    }
}

/// Says when what happened at a time is due.
#[derive(Debug)]
pub(super) struct Pace {
    speed: Speed,
    begun: Option<(u32, Instant)>,
}

impl Pace {
    pub(super) fn new(speed: Speed) -> Pace {
        Pace { speed, begun: None }
    }

    /// When something of this second is due; `None`: now. The first one is.
    pub(super) fn due(&mut self, second: u32) -> Option<Instant> {
        let factor = self.speed.0?;
        // What stands where it was written, before anything happened, has no time.
        if second == 0 {
            return None;
        }
        let (first, begun) = *self.begun.get_or_insert((second, Instant::now()));
        let after = f64::from(second.saturating_sub(first)) / factor;
        begun.checked_add(Duration::try_from_secs_f64(after).ok()?).filter(|due| *due > Instant::now())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ten_times_faster_is_a_tenth_of_the_time() {
        let mut pace = Pace::new(Speed::parse("10x").unwrap());
        assert_eq!(pace.due(1_000), None);
        let due = pace.due(1_100).unwrap();
        let wait = due - Instant::now();
        assert!(wait > Duration::from_secs(9) && wait <= Duration::from_secs(10), "{wait:?}");
        assert_eq!(pace.due(999), None);
        assert_eq!(Pace::new(Speed::parse("max").unwrap()).due(2_000), None);
        for wrong in ["", "x", "0x", "-1x", "10", "fast", "infx"] {
            assert!(Speed::parse(wrong).is_err(), "{wrong}");
        }
    }
}
