"""What every test gets: asyncio under each `async def`, and the slow ones last."""

import os

import pytest

# A worker of pytest-xdist has the width of its terminal in it; what the tests print is for pipes.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
