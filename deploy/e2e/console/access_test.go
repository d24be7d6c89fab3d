//go:build browser

package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/chromedp"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/crypto/bcrypt"

	"github.com/jobrelay/jobrelay/pkg/broker"
	"github.com/jobrelay/jobrelay/pkg/delivery"
	"github.com/jobrelay/jobrelay/pkg/devstack/await"
)

// acting are the settings of a console that may act.
func (s *stack) acting(env ...string) []string {
	return append([]string{"JOBRELAY_ALLOW_ACTIONS=true", "JOBRELAY_NATS_NKEY=" + s.seed(broker.RoleActions)}, env...)
}

// posts are what an action is asked by.
func posts(sc *scene) []string {
	return []string{sc.running.page() + "/cancel", sc.lost.page() + "/replay", "/undelivered/replay"}
}

// count is how many messages a stream has on subjects that fit.
func (w *writer) count(stream, subject string) int {
	w.t.Helper()
	s, err := w.JetStream().Stream(w.t.Context(), stream)
	w.must(err)
	info, err := s.Info(w.t.Context(), jetstream.WithSubjectFilter(subject))
	w.must(err)
	n := 0
	for _, k := range info.State.Subjects {
		n += int(k)
	}
	return n
}

// untouched fails the test where anything was asked for.
func (w *writer) untouched(what string) {
	w.t.Helper()
	if n := w.count(broker.StreamCommands, "commands.>") + w.count(broker.StreamWakeups, "wakeups.callback.>"); n > 0 {
		w.t.Errorf("%s: %d commands were given", what, n)
	}
}

// TestReadOnly: without --allow-actions there is nothing to press, and who asks all the
// same is refused.
func TestReadOnly(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	sc := fill(w, time.Now())
	c := s.ready()
	b := open(t, c.url)
	for _, path := range []string{"/", "/jobs", sc.running.page(), sc.lost.page(), "/undelivered", "/refused", "/refused/" + sc.invalid} {
		b.shows(path)
		if n := eval[int](b, `document.querySelectorAll('form[method="post" i]').length`); n > 0 {
			t.Errorf("%s has %d forms that change something", path, n)
		}
		if words := regexp.MustCompile(`(?i)\b(cancel this|cancel the job|replay)\b`).FindString(eval[string](b, `[...document.querySelectorAll('button, input[type=submit]')].map(e => e.innerText + e.value).join(' ')`)); words != "" {
			t.Errorf("%s has a button to %s", path, words)
		}
	}
	for _, path := range posts(sc) {
		res, err := http.PostForm(c.url+path, url.Values{"endpoint": {oldCRM}, "token": {"x"}})
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden && res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %s", path, res.Status)
		}
	}
	w.untouched("read-only")
}

// TestActions: a job is cancelled and letters are replayed with the keys and the
// pointer that a person has, and who did it is recorded.
func TestActions(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	sc := fill(w, time.Now())
	c := s.ready(s.acting(s.users()...)...)
	b := open(t, c.url)
	b.login("ada", adasPassword)
	b.shows(sc.running.page())
	b.axe("a job that can be cancelled")
	b.press("cancel")
	var asked broker.Cancel
	w.asked(broker.StreamCommands, "commands.cancel."+sc.running.key(), &asked)
	if asked.ID != sc.running.id || asked.By != "ada" {
		t.Errorf("asked was %+v", asked)
	}
	b.reads("ada")
	b.axe("a job that was cancelled")

	b.shows(sc.lost.page())
	b.press("replay")
	var token delivery.Wakeup
	w.asked(broker.StreamWakeups, "wakeups.callback."+sc.lost.key()+".>", &token)
	if token.Run == nil || token.Run.By != "ada" || len(token.Run.Letters) != 3 {
		t.Errorf("the replay's token is %+v", token)
	}

	b.shows("/undelivered?endpoint=" + url.QueryEscape(oldCRM))
	b.axe("letters that can be replayed")
	before := w.count(broker.StreamWakeups, "wakeups.callback.>")
	b.press("replay")
	await.That(t, "the endpoint's letters are replayed", func() bool { return w.count(broker.StreamWakeups, "wakeups.callback.>") > before })
}

// asked waits for a message and reads it.
func (w *writer) asked(stream, subject string, v any) {
	w.t.Helper()
	s, err := w.JetStream().Stream(w.t.Context(), stream)
	w.must(err)
	await.That(w.t, "a message on "+subject, func() bool {
		m, err := s.GetLastMsgForSubject(w.t.Context(), subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return false
		}
		w.must(err)
		w.must(json.Unmarshal(m.Data, v))
		return true
	})
}

// press presses the one button whose text begins so, with the keyboard.
func (b *tab) press(text string) {
	b.t.Helper()
	button := `[...document.querySelectorAll('form[method="post" i] button, form[method="post" i] input[type=submit], summary')].find(e => e.checkVisibility() && new RegExp(` + quote("^\\s*"+text) + `, 'i').test(e.innerText || e.value))`
	b.await("a button to "+text, button)
	if !eval[bool](b, `(() => { const e = `+button+`; e.focus(); return document.activeElement === e })()`) {
		b.t.Fatalf("the button to %s takes no focus", text)
	}
	b.do(chromedp.KeyEvent("\r"))
	b.await("what came of it is said", `document.readyState === 'complete' && document.querySelector('#banner-done') !== null`)
}

// TestForeignForms: a form of another site, without our token, with another user's, or
// from another origin, changes nothing.
func TestForeignForms(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	sc := fill(w, time.Now())
	c := s.ready(s.acting()...)
	cancel := posts(sc)[0]

	other := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(rw, `<!doctype html><title>x</title><form method=post action="%s"><input name=reason value=x><input name=token value=x></form><script>document.forms[0].submit()</script>`, c.url+cancel)
	}))
	defer other.Close()
	b := open(t, c.url)
	b.shows(sc.running.page()) // the browser has whatever a login leaves
	b.expect("request: " + other.URL)
	b.expect("Failed to load resource")
	b.do(chromedp.Navigate(other.URL))
	b.await("the other site's form is answered", `location.href.startsWith(`+quote(c.url)+`)`)
	if !strings.Contains(strings.ToLower(b.text()), "load the page again") && !strings.Contains(strings.ToLower(b.text()), "refused") {
		t.Errorf("the answer to it is %s", b.text())
	}
	w.untouched("another site's form")

	mine, theirs := browserWithToken(t, c.url+sc.running.page()), browserWithToken(t, c.url+sc.running.page())
	for name, send := range map[string]func() (*http.Response, error){
		"no token": func() (*http.Response, error) { return mine.client.PostForm(c.url+cancel, url.Values{"reason": {"x"}}) },
		"no cookie": func() (*http.Response, error) {
			return http.PostForm(c.url+cancel, url.Values{"token": {mine.token}})
		},
		"another's token": func() (*http.Response, error) {
			return mine.client.PostForm(c.url+cancel, url.Values{"token": {theirs.token}})
		},
		"a token in the address": func() (*http.Response, error) {
			return mine.client.Post(c.url+cancel+"?token="+url.QueryEscape(mine.token), "application/x-www-form-urlencoded", nil)
		},
		"another origin": func() (*http.Response, error) {
			return mine.post(c.url+cancel, mine.token, "Origin", other.URL)
		},
		"another site": func() (*http.Response, error) {
			return mine.post(c.url+cancel, mine.token, "Sec-Fetch-Site", "cross-site")
		},
	} {
		res, err := send()
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %s", name, res.Status)
		}
		w.untouched(name)
	}
	res, err := mine.post(c.url+cancel, mine.token, "Origin", c.url)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if w.count(broker.StreamCommands, "commands.>") != 1 {
		t.Errorf("the form itself: %s, and no command", res.Status)
	}
}

// withToken is a browser that has loaded a page with a form.
type withToken struct {
	client *http.Client
	token  string
}

var tokenOf = regexp.MustCompile(`name="?token"? value="?([A-Za-z0-9_-]+)`)

func browserWithToken(t *testing.T, page string) withToken {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	out := withToken{client: &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
	res, err := out.client.Get(page)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var text strings.Builder
	if err := res.Write(&text); err != nil {
		t.Fatal(err)
	}
	found := tokenOf.FindStringSubmatch(text.String())
	if found == nil {
		t.Fatalf("%s has no token: %s", page, text.String())
	}
	out.token = found[1]
	return out
}

func (b withToken) post(address, token, header, value string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodPost, address, strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set(header, value)
	return b.client.Do(req)
}

const adasPassword = "correct horse battery staple"

// users is a file with the one user ada.
func (s *stack) users() []string {
	s.t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(adasPassword), 8)
	if err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "users")
	if err := os.WriteFile(file, []byte("ada:"+string(hash)+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return []string{"JOBRELAY_USERS_FILE=" + file}
}

// login answers the browser's question for a name and a password from now on.
func (b *tab) login(name, password string) {
	b.t.Helper()
	err := chromedp.Listen(b.ctx, func(event any) {
		switch e := event.(type) {
		case *fetch.EventAuthRequired:
			go func() {
				_, _ = chromedp.Call(b.ctx, fetch.ContinueWithAuth, fetch.ContinueWithAuthParams{RequestID: e.RequestID, AuthChallengeResponse: &fetch.AuthChallengeResponse{
					Response: fetch.AuthChallengeResponseResponseProvideCredentials, Username: name, Password: password,
				}})
			}()
		case *fetch.EventRequestPaused:
			go func() {
				_, _ = chromedp.Call(b.ctx, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: e.RequestID})
			}()
		}
	})
	if err != nil {
		b.t.Fatal(err)
	}
	send(b, fetch.Enable, fetch.EnableParams{HandleAuthRequests: new(true)})
}

// TestPasswords: with a file of users nobody gets in without a password, to no page,
// no file of the pages and no stream of changes; who has one works as ever.
func TestPasswords(t *testing.T) {
	s := startStack(t)
	w := s.writer()
	j := w.job(job{id: "behind-a-password"})
	j.started(0)
	c := s.ready(s.users()...)
	paths := []string{"/", "/jobs", j.page(), "/refused", "/undelivered", "/live?page=jobs", "/nothing"}
	for _, path := range paths {
		for _, login := range [][2]string{{"", ""}, {"ada", "wrong"}, {"eve", adasPassword}} {
			req, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), http.MethodGet, c.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if login[0] != "" {
				if path != "/" {
					continue // passwords are looked at so often, and no more
				}
				req.SetBasicAuth(login[0], login[1])
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			_ = res.Write(&text)
			res.Body.Close()
			if res.StatusCode != http.StatusUnauthorized || strings.Contains(text.String(), j.id) {
				t.Errorf("%s as %q: %s", path, login[0], res.Status)
			}
		}
	}
	b := open(t, c.url)
	b.login("ada", adasPassword)
	b.shows("/jobs")
	b.reads(j.id)
	b.live()
	later := w.job(job{id: "seen-by-ada"})
	later.started(0)
	b.reads(later.id)
}

// TestRebinding: a page of elsewhere whose name was made to lead here reads nothing.
func TestRebinding(t *testing.T) {
	s := startStack(t)
	c := s.ready()
	for _, path := range []string{"/", "/jobs", "/live?page=now"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "evil.example:8090"
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode < 400 {
			t.Errorf("%s by another name: %s", path, res.Status)
		}
	}
}
