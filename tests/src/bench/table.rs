//! Figures of several runs, each as least, median and greatest.

use std::fmt;

/// Rows in the order in which they were first measured.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, Vec<f64>)>,
}

impl Table {
    /// One run's figure.
    pub(crate) fn add(&mut self, name: impl Into<String>, figure: f64) {
        let name = name.into();
        println!("  {name}: {}", short(figure));
        match self.rows.iter_mut().find(|(row, _)| *row == name) {
            Some((_, figures)) => figures.push(figure),
            None => self.rows.push((name, vec![figure])),
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | min | median | max |\n|---|---|---|---|")?;
        for (name, figures) in &self.rows {
            let mut figures = figures.clone();
            figures.sort_unstable_by(f64::total_cmp);
            let (least, greatest) = (figures[0], figures[figures.len() - 1]);
            let median = figures[figures.len() / 2];
            writeln!(
                f,
                "| {name} | {} | {} | {} |",
                short(least),
                short(median),
                short(greatest)
            )?;
        }
        Ok(())
    }
}

/// About three digits.
fn short(figure: f64) -> String {
    if figure >= 100.0 {
        format!("{figure:.0}")
    } else {
        format!("{figure:.2}")
    }
}
