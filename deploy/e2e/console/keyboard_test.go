//go:build browser

package console

import (
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// stop is where the focus is.
type stop struct {
	Tag, Name, Href string
	Body            bool // nowhere
	Visible         bool // within the window, and not behind anything
	Marked          bool // a person sees that the focus is there
}

const focused = `(() => {
	const e = document.activeElement;
	if (!e || e === document.body || e === document.documentElement) return {body: true};
	const r = e.getBoundingClientRect(), s = getComputedStyle(e), x = r.x + Math.min(r.width, 20) / 2, y = Math.min(Math.max(r.y + Math.min(r.height, 40) / 2, 1), innerHeight - 1), at = document.elementFromPoint(x, y);
	const name = e.getAttribute('aria-label') || (e.labels && e.labels[0] ? e.labels[0].innerText : '') || e.innerText || e.value || e.title || '';
	return {
		tag: e.tagName.toLowerCase(), name: name.trim(), href: e.getAttribute('href') || '', body: false,
		visible: r.width > 0 && r.height > 0 && r.bottom > 0 && r.top < innerHeight && (e === at || e.contains(at) || (at && at.contains(e))),
		marked: (s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2) || s.boxShadow !== 'none',
	};
})()`

func (b *tab) tabKey() stop {
	b.t.Helper()
	b.do(chromedp.KeyEvent(kb.Tab))
	return eval[stop](b, focused)
}

// TestKeyboardAlone: each stop of Tab is named, seen and marked, on each page; the
// first leads to what the page is about; and a person filters, opens and finds a job
// without a pointer.
func TestKeyboardAlone(t *testing.T) {
	s := startStack(t)
	sc := fill(s.writer(), time.Now())
	c := s.ready()
	b := open(t, c.url)
	for _, path := range []string{"/", "/jobs", sc.invoice.page(), "/refused", "/refused/" + sc.invalid, "/undelivered"} {
		b.shows(path)
		first := b.tabKey()
		if !strings.Contains(strings.ToLower(first.Name), "skip") || !strings.HasPrefix(first.Href, "#") || !first.Visible {
			t.Errorf("%s: the first stop is %+v, and no link that skips to what the page is about", path, first)
		}
		stops := 1
		for ; stops < 400; stops++ {
			at := b.tabKey()
			if at.Body {
				break
			}
			if at.Name == "" || !at.Visible || !at.Marked {
				t.Errorf("%s: stop %d: %+v", path, stops, at)
			}
		}
		if stops < 5 || stops == 400 {
			t.Errorf("%s has %d stops", path, stops)
		}
		t.Logf("%s: %d stops", path, stops)
	}

	b.shows("/jobs")
	b.tabKey()
	b.do(chromedp.KeyEvent("\r"))
	b.await("the focus is at what the page is about", `document.activeElement.closest('main') !== null || location.hash === '#main'`)
	if at := b.tabKey(); at.Body || !eval[bool](b, `document.activeElement.closest('main') !== null`) {
		t.Errorf("after the link that skips, the next stop is %+v", at)
	}

	b.shows("/jobs")
	b.tabTo("the services", `document.activeElement.name === 'service'`)
	b.do(chromedp.KeyEvent("mail"), chromedp.KeyEvent("\r"))
	b.await("the jobs of mail", `location.search.includes('service=mail') && document.readyState === 'complete' && [...document.querySelectorAll('main tbody tr')].length > 0 && [...document.querySelectorAll('main tbody tr')].every(r => r.innerText.includes('mail'))`)

	b.tabTo("a job", `(document.activeElement.getAttribute('href') || '').match(/^\/jobs\/[0-9a-f]{32}/)`)
	b.do(chromedp.KeyEvent("\r"))
	b.await("a job's page", `location.pathname.match(/^\/jobs\/[0-9a-f]{32}$/) && document.querySelector('h1') !== null`)

	b.shows("/jobs")
	b.tabTo("the field that finds", `document.activeElement.name === 'id'`)
	b.do(chromedp.KeyEvent(sc.training.id), chromedp.KeyEvent("\r"))
	b.await("what was found", `(location.search.includes('id=') || location.pathname.startsWith('/jobs/')) && document.readyState === 'complete'`)
	b.reads(sc.training.id)
}

// tabTo presses Tab until the focus is where the expression is true.
func (b *tab) tabTo(what, js string) {
	b.t.Helper()
	for range 400 {
		if b.tabKey().Body {
			break
		}
		if eval[bool](b, `Boolean(`+js+`)`) {
			return
		}
	}
	b.t.Fatalf("no Tab leads to %s", what)
}
