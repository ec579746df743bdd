"""Pictures that are given to the page, and the cards with their answers."""

from pathlib import Path

from playwright.sync_api import Page

from tests.helpers import EXAMPLES, ROOT, RunningService

ROCKET = EXAMPLES / "rocket.jpg"
SHIPPED = ROOT / "service" / "http" / "page_assets" / "examples"


def services_labels(service: RunningService, picture: Path) -> list[str]:
    """The five labels the service gives, as the page writes them."""
    predictions = service.classify(picture.read_bytes()).json()["predictions"]
    return [f"{p['label'].replace('_', ' ')}{p['score'] * 100:.1f} %" for p in predictions]


def choose(tab: Page, *pictures: Path) -> None:
    tab.set_input_files("#files", pictures)


def card(tab: Page, name: str):  # type: ignore[no-untyped-def]
    return tab.locator(".card").filter(has=tab.get_by_role("heading", name=name, exact=True))


def hand_over(tab: Page, kind: str, name: str, content: bytes) -> None:
    """What the browser does when a file is pasted or dropped; automation has no hand on the clipboard's files."""
    tab.evaluate(
        """([kind, name, bytes]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/jpeg"}));
            const event = kind === "paste"
                ? new ClipboardEvent(kind, {clipboardData: data, bubbles: true, cancelable: true})
                : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
            document.body.dispatchEvent(event);
        }""",
        [kind, name, list(content)],
    )
