// How the search ranks.  Sphinx loads this behind its own search, whose index it uses.
//
// Sphinx shows pages that have all words of a question, the best word of each counting.
// Who is in trouble types a sentence, and no page has all of its words.  So a page counts
// by the words that it has, rare words more than common ones; and a section whose title
// has some of them is a hit of its own.

const LEAST_SHARE = 0.5; // of the weight of a question's words
const IN_TITLE = 2;
const LATER = { // pages for other questions than those of somebody in trouble
  changelog: 0.2,
  architecture: 0.4,
  CONTRIBUTING: 0.4,
  trace: 0.4,
  design: 0.6,
  protocol: 0.6,
  scale: 0.7,
  performance: 0.7,
  options: 0.8,
  commands: 0.8,
};

const numbersOf = (files) =>
  files === undefined ? [] : files.length === undefined ? [files] : files;

// The pages that have a word, its beginning, or a longer one that begins with it.
const pagesWith = (index, word) => {
  if (Object.hasOwn(index, word)) return numbersOf(index[word]);
  const found = new Set();
  if (word.length > 3)
    for (const term of Object.keys(index))
      if (term.startsWith(word)) numbersOf(index[term]).forEach((n) => found.add(n));
  return [...found];
};

const rank = (searchTerms, excludedTerms) => {
  const index = Search._index;
  const having = new Map(
    [...searchTerms].map((word) => [
      word,
      new Set([
        ...pagesWith(index.terms, word),
        ...pagesWith(index.titleterms, word),
      ]),
    ]),
  );
  // what no page has can't tell pages apart
  const words = [...searchTerms].filter((word) => having.get(word).size);
  const excluded = new Set(
    [...excludedTerms].flatMap((word) => pagesWith(index.terms, word)),
  );
  const pages = index.docnames.length;
  const weights = new Map(
    words.map((word) => [word, Math.log(1 + pages / (1 + having.get(word).size))]),
  );
  const weigh = (some) => some.reduce((sum, word) => sum + weights.get(word), 0);
  const all = weigh(words);
  const share = (some) => weigh(some) / all;
  const stemmer = new Stemmer();
  const stems = (title) =>
    new Set(splitQuery(title.toLowerCase()).map((word) => stemmer.stemWord(word)));

  const bestTitles = new Map(); // by page
  for (const [title, places] of Object.entries(index.alltitles)) {
    const has = stems(title);
    const found = words.filter((word) => has.has(word));
    if (!found.length) continue;
    for (const [page, anchor] of places) {
      // of two titles with the same words the shorter one is nearer to the question
      const score = share(found) - 0.001 * has.size;
      const best = bestTitles.get(page);
      if (!best || score > best.score) bestTitles.set(page, { score, title, anchor });
    }
  }

  const results = [];
  for (let page = 0; page < pages; page++) {
    const text = share(words.filter((word) => having.get(word).has(page)));
    const best = bestTitles.get(page);
    if (excluded.has(page) || text < LEAST_SHARE) continue;
    const later = LATER[index.docnames[page]] ?? 1;
    const score = 100 * later * (text + IN_TITLE * (best ? best.score : 0));
    const isSection = best && best.anchor !== null && best.score > 0.3;
    const title = index.titles[page];
    results.push([
      index.docnames[page],
      isSection && best.title !== title ? `${title} > ${best.title}` : title,
      isSection ? `#${best.anchor}` : "",
      null,
      score,
      index.filenames[page],
      SearchResultKind.text,
    ]);
  }
  return results;
};

Search.performTermsSearch = rank;
