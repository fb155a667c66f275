"""What a body must not call, by the full names of functions, and what to do instead."""

from __future__ import annotations

CLOCK = "the clock is another one in replay: use ctx.now()"
SLEEP = "it keeps every other call waiting, and replay waits again: await ctx.sleep(…)"
CHANCE = "replay draws another one: use ctx.random"
UUID = "replay makes another one: use ctx.uuid4()"
ENVIRONMENT = "it may change between two lives of a call: read it in a step"
IO = "replay does it again: move it into a @step"
THREAD = "a body has no threads: make it a @step, which may be a plain function"
PROCESS = "it is another one in each process: use what the value says, not where it is"

VERBS = ("get", "post", "put", "patch", "delete", "head", "options", "request")

NAMES = {
    "time.time": CLOCK,
    "time.time_ns": CLOCK,
    "time.monotonic": CLOCK,
    "time.monotonic_ns": CLOCK,
    "time.perf_counter": CLOCK,
    "time.perf_counter_ns": CLOCK,
    "time.process_time": CLOCK,
    "time.localtime": CLOCK,
    "time.gmtime": CLOCK,
    "time.ctime": CLOCK,
    "time.strftime": CLOCK,
    "time.sleep": SLEEP,
    "datetime.datetime.now": CLOCK,
    "datetime.datetime.utcnow": CLOCK,
    "datetime.datetime.today": CLOCK,
    "datetime.date.today": CLOCK,
    "uuid.uuid1": UUID,
    "uuid.uuid4": UUID,
    "os.urandom": CHANCE,
    "os.getrandom": CHANCE,
    "os.getenv": ENVIRONMENT,
    "asyncio.to_thread": THREAD,
    "threading.Thread": THREAD,
    "concurrent.futures.thread.ThreadPoolExecutor": THREAD,
    "concurrent.futures.process.ProcessPoolExecutor": THREAD,
    "asyncio.open_connection": IO,
    "asyncio.create_subprocess_exec": IO,
    "asyncio.create_subprocess_shell": IO,
    "builtins.open": IO,
    "builtins.input": IO,
    "builtins.hash": PROCESS,
    "builtins.id": PROCESS,
    "io.open": IO,
    "urllib.request.urlopen": IO,
    "http.client.HTTPConnection": IO,
    "http.client.HTTPSConnection": IO,
    "httpx.Client": IO,
    "httpx.AsyncClient": IO,
    "requests.Session": IO,
    "aiohttp.ClientSession": IO,
    "sqlite3.connect": IO,
    "smtplib.SMTP": IO,
    **{
        f"httpx.{verb}": IO
        for verb in ("get", "post", "put", "patch", "delete", "head", "options", "request", "stream")
    },
    **{f"requests.{verb}": IO for verb in ("get", "post", "put", "patch", "delete", "head", "options", "request")},
    **{f"os.{verb}": IO for verb in ("listdir", "scandir", "walk", "remove", "unlink", "rename", "replace", "mkdir")},
    **{f"os.{verb}": IO for verb in ("makedirs", "rmdir", "stat", "system", "popen", "open", "read", "write", "kill")},
    **{f"os.path.{verb}": IO for verb in ("exists", "isfile", "isdir", "getsize", "getmtime")},
}

MODULES = {
    "random": CHANCE,
    "secrets": CHANCE,
    "subprocess": IO,
    "socket": IO,
    "shutil": IO,
    "tempfile": IO,
    "multiprocessing": THREAD,
}
"""All that is in them."""

HARMLESS = {"random.Random"}
"""With a seed: the same in every replay."""

METHODS = {
    "run_in_executor": THREAD,
    "read_text": IO,
    "write_text": IO,
    "read_bytes": IO,
    "write_bytes": IO,
}
"""By their own name, whatever they are methods of: nobody calls anything else so."""

MUTATORS = frozenset(
    {"append", "add", "update", "pop", "popitem", "clear", "extend", "setdefault", "remove", "insert", "discard"}
)


def remedy_for(name: str) -> str | None:
    if name in HARMLESS:
        return None
    return NAMES.get(name) or MODULES.get(name.partition(".")[0])
