//! Runs the cases under valgrind and compares with `docs/bench/instructions.txt`.
//!
//! `cargo bench -p instructions` compares; with `-- --save` it writes the file instead. Called by itself with
//! `--run NUMBER ITERATIONS` it does one case.

use std::path::Path;
use std::process::{Command, ExitCode};

use instructions::cases::ALL;
use instructions::counts::{self, Counts};

const FEW: u32 = 1000;
/// Iterations of which the cost is told.
const MORE: u32 = 2000;
const THOUSANDTHS: u64 = 1000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, number, iterations] = arguments.as_slice()
        && verb == "--run"
    {
        let case = number.parse::<usize>().ok().and_then(|number| ALL.get(number));
        if let (Some((_, run)), Ok(iterations)) = (case, iterations.parse()) {
            run(iterations);
        }
        return ExitCode::SUCCESS;
    }
    match compare(arguments.iter().any(|argument| argument == "--save")) {
        Ok(false) => ExitCode::SUCCESS,
        Ok(true) => ExitCode::FAILURE,
        Err(cause) => {
            eprintln!("instructions: {cause}");
            ExitCode::from(2)
        }
    }
}

fn compare(save: bool) -> Result<bool, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/bench/instructions.txt");
    let mut now = Counts::new();
    for (number, (name, _)) in ALL.iter().enumerate() {
        let few = count(number, FEW)?;
        let more = count(number, FEW.saturating_add(MORE))?.saturating_sub(few);
        now.insert((*name).to_owned(), more.saturating_mul(THOUSANDTHS).checked_div(MORE.into()).unwrap_or(0));
    }
    if save {
        std::fs::write(&file, counts::write(&now)).map_err(|cause| cause.to_string())?;
    }
    let before = counts::read(&std::fs::read_to_string(&file).unwrap_or_default());
    let (text, worse) = counts::compare(&now, &before);
    print!("instructions an iteration:\n{text}");
    Ok(worse)
}

fn count(number: usize, iterations: u32) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|cause| cause.to_string())?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(["--run", &number.to_string(), &iterations.to_string()])
        .output()
        .map_err(|cause| format!("valgrind: {cause}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    counts::parse_callgrind(&said).ok_or_else(|| format!("no count in what valgrind said:\n{said}"))
}
