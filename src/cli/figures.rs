//! Live figures in words for both command lines. What is not known is empty, and shows as `-`. Pure.

use crate::api::stats::ProcessFigures;

/// Headings of the columns.
pub const HEADINGS: [&str; 5] = ["MEMORY", "CPU", "UPTIME", "RESTARTS", "LAST EXIT"];

/// A process's figures, column by column.
#[must_use]
pub fn columns(figures: &ProcessFigures) -> [String; 5] {
    let memory = figures.memory_bytes.map(|used| {
        let limit = figures.memory_limit_bytes;
        limit.map_or(bytes(used), |limit| {
            format!("{}/{}", bytes(used), bytes(limit))
        })
    });
    [
        memory.unwrap_or_default(),
        figures.cpu_permille.map(percent).unwrap_or_default(),
        figures.uptime_secs.map(duration).unwrap_or_default(),
        figures.restarts.to_string(),
        figures.exit.clone().unwrap_or_default(),
    ]
}

/// `31.2M`: three digits or so, units of 1024.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, 'B');
    for next in ['K', 'M', 'G', 'T', 'P'] {
        // What would be rounded to four digits belongs to the next unit.
        if value < 999.5 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == 'B' || value >= 99.95 || value.fract() == 0.0 {
        format!("{value:.0}{unit}")
    } else {
        format!("{value:.1}{unit}")
    }
}

/// Thousandths of a processor as `12.3%`.
#[must_use]
pub fn percent(permille: u32) -> String {
    format!("{}.{}%", permille / 10, permille % 10)
}

/// `45s`, `3m 20s`, `2h 5m`, `4d 3h`.
#[must_use]
pub fn duration(secs: u64) -> String {
    let (minutes, hours, days) = (secs / 60, secs / 3600, secs / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{secs}s"),
        (0, 0, _) => format!("{minutes}m {}s", secs % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        for (number, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1.0K"),
            (1 << 20, "1M"),
            (32_715_571, "31.2M"),
            (512 << 20, "512M"),
            (1020 << 20, "1.0G"),
            (3 << 40, "3T"),
            (u64::MAX, "16384P"),
        ] {
            assert_eq!(bytes(number), want);
        }
        assert_eq!(
            (percent(0), percent(123), percent(2000)),
            ("0.0%".into(), "12.3%".into(), "200.0%".into())
        );
        for (secs, want) in [
            (0, "0s"),
            (59, "59s"),
            (200, "3m 20s"),
            (7500, "2h 5m"),
            (360_000, "4d 4h"),
        ] {
            assert_eq!(duration(secs), want);
        }
    }

    #[test]
    fn what_is_unknown_is_empty() {
        let silent = ProcessFigures {
            restarts: 2,
            exit: Some("exit code 3".into()),
            ..ProcessFigures::default()
        };
        assert_eq!(columns(&silent), ["", "", "", "2", "exit code 3"]);
    }
}
