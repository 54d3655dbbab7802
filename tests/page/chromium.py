"""A headless Chromium, spoken to over its debugging pipe: what pages compute and how they look."""

import asyncio
import fcntl
import os
import shutil
import sys
from base64 import b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final

import orjson
import pytest

CHROMIUM: Final = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium: Final = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

WITHIN_S: Final = 60.0
_FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--mute-audio",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
_LAUNCH: Final = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
_LARGEST_MESSAGE: Final = 64 * 1024 * 1024
_FIRST_HIGH_FD: Final = 10

Rgb = tuple[int, int, int]


@dataclass
class Browser:
    """The browser's process. Messages are JSON, each ended by a zero byte."""

    writer: asyncio.StreamWriter
    _numbers: "count[int]" = field(default_factory=lambda: count(1))
    _waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    _tabs: dict[str, "Tab"] = field(default_factory=dict)

    async def listen(self, reader: asyncio.StreamReader) -> None:
        while True:
            message = orjson.loads((await reader.readuntil(b"\0"))[:-1])
            if (number := message.get("id")) is not None:
                future = self._waiting.pop(number)
                if "error" in message:
                    future.set_exception(RuntimeError(message["error"]["message"]))
                else:
                    future.set_result(message["result"])
            elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
                tab.happened(message["method"], message["params"])

    async def call(self, method: str, session: str = "", **params: object) -> Any:  # noqa: ANN401  # the method's own
        number = next(self._numbers)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self.writer.write(orjson.dumps(message) + b"\0")
        async with asyncio.timeout(WITHIN_S):
            return await future

    async def tab(self, *, width: int = 1100, height: int = 1300, dark: bool = False, scripts: bool = True) -> "Tab":
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = self._tabs[attached["sessionId"]] = Tab(self, attached["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            await tab.call(f"{domain}.enable")
        await tab.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await tab.call("Emulation.setEmulatedMedia", features=features)
        await tab.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        return tab


@dataclass
class Tab:
    """A page. `complaints` are the errors that the browser has logged of it."""

    browser: Browser
    session: str
    complaints: list[str] = field(default_factory=list)
    _loaded: asyncio.Event = field(default_factory=asyncio.Event)

    def happened(self, event: str, params: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded.set()
        elif event == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))

    async def call(self, method: str, **params: object) -> Any:  # noqa: ANN401  # the method's own
        return await self.browser.call(method, self.session, **params)

    async def go(self, url: str) -> None:
        """Opens a page and waits until it has everything."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(WITHIN_S):
            await self._loaded.wait()

    async def value(self, expression: str) -> Any:  # noqa: ANN401  # whatever it comes to
        """What an expression comes to on the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Waits until an expression is true on the page."""
        async with asyncio.timeout(WITHIN_S):
            while not await self.value(expression):  # noqa: ASYNC110  # it happens in another process
                await asyncio.sleep(0.02)

    async def screenshot(self, path: Path) -> "Picture":
        """What is seen, kept in a file too."""
        data = (await self.call("Page.captureScreenshot", format="png"))["data"]
        await asyncio.to_thread(path.write_bytes, b64decode(data))
        return Picture(self.browser, data)


@dataclass(frozen=True)
class Picture:
    """A PNG in base64."""

    browser: Browser
    data: str

    async def pixels(self, places: list[tuple[float, float]]) -> list[Rgb]:
        """The colours at these places, each the pixel that the place lies in."""
        tab = await self.browser.tab()
        found = await tab.value(
            f"""(async () => {{
              const image = new Image();
              image.src = "data:image/png;base64,{self.data}";
              await image.decode();
              const canvas = document.createElement("canvas");
              [canvas.width, canvas.height] = [image.width, image.height];
              const context = canvas.getContext("2d");
              context.drawImage(image, 0, 0);
              return {[list(place) for place in places]}.map(
                ([x, y]) => [...context.getImageData(Math.floor(x), Math.floor(y), 1, 1).data].slice(0, 3));
            }})()"""
        )
        return [(red, green, blue) for red, green, blue in found]


def _high_pipe() -> tuple[int, int]:
    """A pipe whose ends are not those that the browser wants for its own."""
    low = os.pipe()
    reading, writing = (fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_HIGH_FD) for fd in low)
    for fd in low:
        os.close(fd)
    return reading, writing


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """A Chromium whose profile is in `folder`, ended with the block."""
    commands_read, commands_write = _high_pipe()
    answers_read, answers_write = _high_pipe()
    assert CHROMIUM is not None
    words = (CHROMIUM, *_FLAGS, f"--user-data-dir={folder}", "about:blank")
    with (folder.parent / "chromium.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", _LAUNCH, str(commands_read), str(answers_write), *words),
            pass_fds=(commands_read, answers_write),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    os.close(commands_read)
    os.close(answers_write)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=_LARGEST_MESSAGE)
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answers_read, "rb")
    )
    writing, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, os.fdopen(commands_write, "wb"))
    opened = Browser(asyncio.StreamWriter(writing, protocol, None, loop))
    listening = asyncio.create_task(opened.listen(reader))
    try:
        yield opened
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        writing.close()
        transport.close()
        process.kill()
        await process.wait()
