//go:build browser

// Package console drives the console in a real headless Chromium, beside a real NATS
// whose streams are written as the services write them: make test-browser.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/jobrelay/jobrelay/pkg/devstack/await"
)

var pictures = flag.Bool("update", false, "write the pictures of docs/console anew")

// axeSource is axe-core, as package-lock.json names it.
var axeSource string

// chromium is the one browser of all tests; each tab has its own profile in it.
var chromium context.Context

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	axe, err := os.ReadFile("node_modules/axe-core/axe.min.js")
	if err != nil {
		fmt.Fprintf(os.Stderr, "%v; run make test-browser, which brings it with npm ci\n", err)
		return 1
	}
	axeSource = string(axe)
	binary, err := findChromium()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(binary),
		chromedp.NoSandbox, // it runs as root in containers, and sees nothing but these tests
		chromedp.Flag("force-color-profile", "srgb"),
		chromedp.Flag("font-render-hinting", "none"),
		chromedp.Flag("disable-component-update", true),
	)
	allocator, end := chromedp.NewExecAllocator(context.Background(), options...)
	defer end()
	var stop context.CancelFunc
	chromium, stop = chromedp.NewContext(allocator)
	defer stop()
	if err := chromedp.Do(chromium); err != nil {
		fmt.Fprintf(os.Stderr, "%s does not start: %v\n", binary, err)
		return 1
	}
	code := m.Run()
	fmt.Println(axeResult.String())
	return code
}

func findChromium() (string, error) {
	for _, name := range []string{os.Getenv("JOBRELAY_CHROMIUM"), "chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); name != "" && err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("no Chromium was found, and nothing was tested: apt-get install chromium, or name one in JOBRELAY_CHROMIUM")
}

// view is how a page is looked at.
type view struct {
	name          string
	width, height int64
	dark          bool
}

var (
	light      = view{name: "light", width: 1280, height: 800}
	dark       = view{name: "dark", width: 1280, height: 800, dark: true}
	narrow     = view{name: "narrow", width: 360, height: 740}
	narrowDark = view{name: "narrow-dark", width: 360, height: 740, dark: true}
	views      = []view{light, dark, narrow, narrowDark}
)

// tab is a page with a profile of its own. What goes wrong in it fails the test:
// a script's error, a dialog, a violation of the page's policy, a request to anywhere
// else, and anything that calls __xss.
type tab struct {
	t    *testing.T
	ctx  context.Context
	base string // address of the console

	mu       sync.Mutex
	said     []string
	expected []string // what may be said: parts of it
}

// open opens a tab on a console.
func open(t *testing.T, base string) *tab {
	t.Helper()
	ctx, end := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	b := &tab{t: t, ctx: ctx, base: base}
	t.Cleanup(func() {
		end()
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, s := range b.said {
			if !slices.ContainsFunc(b.expected, func(e string) bool { return strings.Contains(s, e) }) {
				t.Errorf("in the browser: %s", s)
			}
		}
	})
	// The first command ties the tab to its context: it must be the tab's own.
	if err := errors.Join(chromedp.Do(ctx), chromedp.Listen(ctx, b.hear)); err != nil {
		t.Fatal(err)
	}
	send(b, runtime.Enable, cdp.Empty{})
	send(b, network.Enable, network.EnableParams{})
	send(b, page.Enable, page.EnableParams{})
	for _, name := range []string{"__xss", "__said"} {
		send(b, runtime.AddBinding, runtime.AddBindingParams{Name: name})
	}
	send(b, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: watching})
	send(b, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "Europe/Berlin"})
	send(b, emulation.SetLocaleOverride, emulation.SetLocaleOverrideParams{Locale: "en-GB"})
	b.look(light)
	return b
}

// watching is put into each page before any script of its own.
const watching = `
	document.addEventListener('securitypolicyviolation', e => __said('policy: ' + e.violatedDirective + ' ' + e.blockedURI + ' ' + e.sample));
	addEventListener('unhandledrejection', e => __said('rejection: ' + e.reason));
	// when resolves with the page's own clock once test() is true of what is shown.
	window.__when = test => new Promise(done => {
		const look = () => test() && (done(Date.now()), true);
		if (look()) return;
		const o = new MutationObserver(() => look() && o.disconnect());
		o.observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
	});`

func (b *tab) hear(event any) {
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		b.say("exception: " + (&chromedp.ExceptionError{ExceptionDetails: e.ExceptionDetails}).Error())
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError {
			var args []string
			for _, a := range e.Args {
				args = append(args, string(a.Value)+a.Description)
			}
			b.say("console: " + strings.Join(args, " "))
		}
	case *runtime.EventBindingCalled:
		b.say(e.Name + ": " + e.Payload)
	case *page.EventJavascriptDialogOpening:
		b.say("dialog: " + e.Message)
		go func() { // not from here: the answer would be waited for where it is read
			_, _ = chromedp.Call(b.ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{})
		}()
	case *network.EventRequestWillBeSent:
		for _, ours := range []string{b.base + "/", "about:", "data:image/"} {
			if strings.HasPrefix(e.Request.URL, ours) {
				return
			}
		}
		b.say("request: " + e.Request.URL)
	}
}

func (b *tab) say(what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.said = append(b.said, what)
}

// expect lets what is said that has part in it pass.
func (b *tab) expect(part string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.expected = append(b.expected, part)
}

const patience = 30 * time.Second

func (b *tab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatal(err)
	}
}

// send is a command of the DevTools protocol.
func send[P, R any](b *tab, c cdp.Command[P, R], params P) R {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	out, err := chromedp.Call(ctx, c, params)
	if err != nil {
		b.t.Fatalf("%s: %v", c.Method, err)
	}
	return out
}

// look sets how the page is looked at.
func (b *tab) look(v view) {
	b.t.Helper()
	scheme := "light"
	if v.dark {
		scheme = "dark"
	}
	send(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: v.width, Height: v.height, DeviceScaleFactor: 1, Mobile: v.width < 600})
	send(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
}

// goTo loads a page and returns its HTTP status.
func (b *tab) goTo(path string) int {
	b.t.Helper()
	var status int64
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	res, err := chromedp.RunResponse(ctx, chromedp.Navigate(b.base+path))
	if err != nil {
		b.t.Fatalf("%s: %v", path, err)
	}
	if res != nil {
		status = res.Status
	}
	return int(status)
}

// shows is goTo for a page that is there.
func (b *tab) shows(path string) {
	b.t.Helper()
	if status := b.goTo(path); status != 200 {
		b.t.Fatalf("%s: %d: %s", path, status, b.text())
	}
}

// eval is an expression's value, awaited where it is a promise.
func eval[T any](b *tab, js string) T {
	b.t.Helper()
	out, err := tryEval[T](b, js)
	if err != nil {
		b.t.Fatalf("%v: %s", err, js)
	}
	return out
}

func tryEval[T any](b *tab, js string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](js, chromedp.EvalAwaitPromise))
}

// text is what a person reads on the page.
func (b *tab) text() string {
	b.t.Helper()
	return eval[string](b, `document.body.innerText`)
}

// await waits until the expression is true of the page.
func (b *tab) await(what, js string) {
	b.t.Helper()
	await.That(b.t, what, func() bool {
		ok, err := tryEval[bool](b, `Boolean(`+js+`)`)
		return err == nil && ok // between two pages there is none to ask
	})
}

// reads waits until each part is readable on the page.
func (b *tab) reads(parts ...string) {
	b.t.Helper()
	for _, p := range parts {
		b.await("the page says "+p, `document.body.innerText.includes(`+quote(p)+`)`)
	}
}

// quote is a text as a JavaScript literal.
func quote(text string) string {
	b, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string has no error
	}
	return string(b)
}

// problem is one rule that axe finds broken.
type problem struct {
	ID, Impact, Help string
	Nodes            []struct {
		HTML           string
		FailureSummary string
	}
}

// axe fails the test where the page breaks a rule of axe-core, best practices
// included.
func (b *tab) axe(where string) {
	b.t.Helper()
	eval[bool](b, `Boolean(window.axe) || (() => { `+axeSource+`; return true })()`)
	found := eval[struct {
		Violations []problem
		Passes     int
	}](b, `axe.run(document, {resultTypes: ['violations']}).then(r => ({violations: r.violations.map(v => ({id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => ({html: n.html, failureSummary: n.failureSummary}))})), passes: r.passes.length}))`)
	if found.Passes < 10 {
		b.t.Errorf("%s: axe has looked at nothing: %d rules passed", where, found.Passes)
	}
	axeResult.add(where, found.Passes, len(found.Violations))
	for _, v := range found.Violations {
		for _, n := range v.Nodes[:min(len(v.Nodes), 4)] {
			b.t.Errorf("%s: axe: %s (%s): %s\n%s\n%s", where, v.ID, v.Impact, v.Help, n.HTML, n.FailureSummary)
		}
	}
}

// fits fails the test where the page scrolls sideways, or one of the tables does that
// people read on a telephone.
func (b *tab) fits(where string) {
	b.t.Helper()
	if wide := eval[[]string](b, `(() => {
		const most = document.documentElement.clientWidth;
		const out = [...document.querySelectorAll('#jobs, #steps, #problems')].map(t => t.parentElement).filter(e => e.scrollWidth > e.clientWidth).map(e => e.scrollWidth + ' of ' + e.clientWidth + ' pixels: ' + e.outerHTML.slice(0, 120));
		if (document.scrollingElement.scrollWidth <= most) return out;
		return out.concat([...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > most + 1).map(e => e.outerHTML.slice(0, 120)).slice(0, 5));
	})()`); len(wide) > 0 {
		b.t.Errorf("%s scrolls sideways: %s", where, strings.Join(wide, "\n"))
	}
}

// axeResults are what axe found over the whole run.
type axeResults struct {
	mu                        sync.Mutex
	pages, passed, violations int
}

var axeResult axeResults

func (r *axeResults) add(_ string, passed, violations int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pages, r.passed, r.violations = r.pages+1, r.passed+passed, r.violations+violations
}

func (r *axeResults) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fmt.Sprintf("axe-core: %d looks at pages, %d rules passed, %d violations", r.pages, r.passed, r.violations)
}

// opened opens what a page shows only when it is asked to.
func (b *tab) opened() {
	b.t.Helper()
	eval[int](b, `[...document.querySelectorAll('details')].map(d => d.open = true).length`)
}
