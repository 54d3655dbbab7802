// Golden plays transcripts: ADDRESS RUN [--ca FILE [--cert FILE --key FILE]] TRANSCRIPT…; see ../golden/README.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"gopkg.in/yaml.v3"

	"holdgate/gateway/hold"
	"holdgate/gateway/internal/arguments"
)

const timeout = 10 * time.Second

type step struct {
	Call          string
	Request       map[string]any
	Answer, Error any
}

func main() {
	words, files := arguments.Parse()
	if len(words) < 3 {
		log.Fatal("usage: golden ADDRESS RUN [--ca FILE [--cert FILE --key FILE]] TRANSCRIPT…")
	}
	client, err := hold.Dial(words[0], "", files)
	if err != nil {
		log.Fatal(err)
	}
	passed, failed := 0, 0
	for _, path := range words[2:] {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		for index, step := range read(path, words[1]) {
			found := play(client, step)
			line, _ := json.Marshal(map[string]any{"transcript": name, "step": index + 1, "answer": found})
			fmt.Println(string(line))
			expected := map[string]any{"answer": step.Answer}
			if step.Error != nil {
				expected = map[string]any{"error": step.Error}
			}
			differences := differing(expected, found, fmt.Sprintf("%s: step %d", name, index+1))
			for _, difference := range differences {
				fmt.Fprintln(os.Stderr, difference)
			}
			if len(differences) == 0 {
				passed++
			} else {
				failed++
			}
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}

func read(path, run string) (steps []step) {
	text, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal([]byte(strings.ReplaceAll(string(text), "<run>", run)), &steps)
	}
	if err != nil {
		log.Fatalf("%s: %v", path, err)
	}
	return steps
}

// play makes one call; its outcome as JSON, {"answer": …} or {"error": …}.
func play(client *hold.Client, step step) map[string]any {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	service, name, _ := strings.Cut(step.Call, "/")
	found, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service + "." + name))
	if err != nil {
		log.Fatalf("%s: %v", step.Call, err)
	}
	method := found.(protoreflect.MethodDescriptor)
	request, response := message(method.Input()), message(method.Output())
	text, _ := json.Marshal(step.Request)
	if err := protojson.Unmarshal(text, request.Interface()); err != nil {
		log.Fatalf("%s: %v", step.Call, err)
	}
	if err := client.Conn.Invoke(ctx, "/"+step.Call, request.Interface(), response.Interface()); err != nil {
		return map[string]any{"error": failure(err)}
	}
	text, _ = protojson.Marshal(response.Interface())
	var answer map[string]any
	_ = json.Unmarshal(text, &answer)
	return map[string]any{"answer": answer}
}

func message(descriptor protoreflect.MessageDescriptor) protoreflect.Message {
	found, err := protoregistry.GlobalTypes.FindMessageByName(descriptor.FullName())
	if err != nil {
		log.Fatal(err)
	}
	return found.New()
}

func failure(err error) map[string]any {
	failed := status.Convert(err)
	reason, fields := "", []any{}
	for _, detail := range failed.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			reason = detail.Reason
		case *errdetails.BadRequest:
			for _, violation := range detail.FieldViolations {
				fields = append(fields, violation.Field)
			}
		}
	}
	return map[string]any{"code": upper(failed.Code().String()), "reason": reason, "fields": fields, "says": failed.Message()}
}

// upper writes InvalidArgument as INVALID_ARGUMENT.
func upper(camel string) string {
	var name strings.Builder
	for index, letter := range camel {
		if index > 0 && letter >= 'A' && letter <= 'Z' {
			name.WriteByte('_')
		}
		name.WriteRune(letter)
	}
	return strings.ToUpper(name.String())
}

// differing tells where an answer is not what was expected, one line each.
func differing(expected, found any, at string) (lines []string) {
	switch expected := expected.(type) {
	case map[string]any:
		if found, ok := found.(map[string]any); ok {
			for name, value := range expected {
				lines = append(lines, differing(value, found[name], at+"."+name)...)
			}
			return lines
		}
	case []any:
		if found, ok := found.([]any); ok && len(found) == len(expected) {
			for index := range expected {
				lines = append(lines, differing(expected[index], found[index], fmt.Sprintf("%s[%d]", at, index))...)
			}
			return lines
		}
	}
	want, got := text(expected), text(found)
	if want == got || number(want) == number(got) || strings.HasSuffix(at, ".says") && strings.Contains(got, want) {
		return nil
	}
	return []string{fmt.Sprintf("%s: expected %s, found %s", at, want, got)}
}

// text is a value as JSON writes it; a text is itself.
func text(value any) string {
	if text, ok := value.(string); ok {
		return text
	}
	written, _ := json.Marshal(value)
	return string(written)
}

// number is the number that a text writes; NaN, which equals nothing, for anything else.
func number(text string) float64 {
	found, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return math.NaN()
	}
	return found
}
