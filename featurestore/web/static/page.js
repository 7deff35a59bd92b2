// "/" goes to the search; on the catalogue the results follow the typing.
const search = document.getElementById("search");

document.addEventListener("keydown", (event) => {
  const typing = /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    search.focus();
    search.select();
  }
});

const results = document.getElementById("results");
if (results) {
  let timer = 0;
  let asked = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      const mine = ++asked;
      const address = new URL(location.href);
      address.searchParams.set("q", search.value);
      const answer = await fetch(address, { headers: { "x-part": "results" } });
      const text = await answer.text();
      if (mine === asked && answer.ok) {
        results.innerHTML = text;
        history.replaceState(null, "", address);
      }
    }, 120);
  });
}
