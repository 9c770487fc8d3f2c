// The views of the admin page, one for each `<section data-view>`, chosen by the fragment: `#explore/details` shows the view
// `explore` with the argument `/details`.

/**
 * A view. All methods are optional.
 * @typedef {object} View
 * @property {(argument: string) => void} [show] Called when the view appears, and for each new argument.
 * @property {() => void} [hide] Called when another view appears.
 */

const FIRST = "overview";

/** @param {string} fragment */
function parse(fragment) {
  const [, name = "", argument = ""] = /^#?([a-z]*)(.*)$/s.exec(fragment) ?? [];
  try {
    return { name, argument: decodeURIComponent(argument) };
  } catch {
    return { name, argument };
  }
}

/** Shows the view that the fragment names, now and whenever it changes. @param {Record<string, View>} views */
export function startViews(views) {
  const sections = [...document.querySelectorAll("[data-view]")].map((section) => /** @type {HTMLElement} */ (section));
  const links = [...document.querySelectorAll("nav a[data-link]")].map((link) => /** @type {HTMLElement} */ (link));
  let current = "";
  const follow = () => {
    const { name, argument } = parse(location.hash);
    const shown = sections.some((section) => section.dataset.view === name) ? name : FIRST;
    if (shown !== current) views[current]?.hide?.();
    const changed = current !== "" && shown !== current;
    current = shown;
    for (const section of sections) section.hidden = section.dataset.view !== shown;
    for (const link of links) {
      if (link.dataset.link !== shown) link.removeAttribute("aria-current");
      else {
        link.setAttribute("aria-current", "page");
        link.scrollIntoView({ block: "nearest", inline: "nearest" });
      }
    }
    // Screen readers and the keyboard continue at the heading of the new view.
    if (changed) {
      scrollTo(0, 0);
      const heading = sections.find((section) => !section.hidden)?.querySelector("h2");
      if (heading instanceof HTMLElement) heading.focus({ preventScroll: true });
    }
    // Afterwards, because a view may scroll to what its argument names.
    views[shown]?.show?.(argument);
  };
  addEventListener("hashchange", follow);
  follow();
}
