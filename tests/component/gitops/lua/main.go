// Command lua runs a health check of Argo CD, which embeds the same interpreter: it reads a JSON list of objects from
// stdin, runs the script that the first argument names with each as obj, and writes a JSON list of what it returned.
package main

import (
	"encoding/json"
	"log"
	"os"

	lua "github.com/yuin/gopher-lua"
)

type health struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	script, err := os.ReadFile(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var objects []any
	if err := json.NewDecoder(os.Stdin).Decode(&objects); err != nil {
		log.Fatal(err)
	}
	results := make([]health, 0, len(objects))
	for _, object := range objects {
		results = append(results, check(string(script), object))
	}
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		log.Fatal(err)
	}
}

func check(script string, object any) health {
	// As Argo CD does, without the libraries that a health check must not use.
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for name, open := range map[string]lua.LGFunction{"": lua.OpenBase, lua.TabLibName: lua.OpenTable} {
		state.Push(state.NewFunction(open))
		state.Push(lua.LString(name))
		state.Call(1, 0)
	}
	state.SetGlobal("obj", value(state, object))
	if err := state.DoString(script); err != nil {
		log.Fatal(err)
	}
	result, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		log.Fatal("the script returns no table")
	}
	return health{
		Status:  result.RawGetString("status").String(),
		Message: result.RawGetString("message").String(),
	}
}

func value(state *lua.LState, document any) lua.LValue {
	switch typed := document.(type) {
	case bool:
		return lua.LBool(typed)
	case float64:
		return lua.LNumber(typed)
	case string:
		return lua.LString(typed)
	case []any:
		table := state.NewTable()
		for _, entry := range typed {
			table.Append(value(state, entry))
		}
		return table
	case map[string]any:
		table := state.NewTable()
		for key, entry := range typed {
			table.RawSetString(key, value(state, entry))
		}
		return table
	}
	return lua.LNil
}
